"""Count the unigrams and bigrams of a corpus exactly, in bounded memory, and rank bigrams by mutual information.

    counter.py  texts -> sorted runs on disk: a Counter holds one hash table of words and one of pairs of words, and
                writes full tables as a run
    runs.py     runs -> all counts: words in byte order, pairs of words as two ranks in that order -> the most frequent
                words and the bigrams with the highest pointwise mutual information
    kernels.py  the compiled loops of the counter

Merging renumbers words but keeps their order, so sorted pairs stay sorted and a merge only reads forward.  Counts do
not depend on the limits.

Legend: W words, S slots, B bigrams, T texts, N tokens of a batch.
"""
