"""Exact unigram and bigram counts of a corpus in bounded memory, and their pointwise mutual information."""
