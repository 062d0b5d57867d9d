"""Count the unigrams and bigrams of a corpus exactly, in bounded memory, and rank bigrams by mutual information.

    counter.py  texts -> sorted runs on disk: a Counter holds one hash table of words and one of pairs of words, and
                writes full tables as a run
    runs.py     runs -> all counts: words in byte order, pairs of words as two ranks in that order
    choose.py   counts -> the most frequent words and the bigrams with the highest pointwise mutual information
    kernels.py  the compiled loops of the counter

Merging renumbers words but keeps their order, so sorted pairs stay sorted and a merge only reads forward.  Counts do
not depend on the limits.

Legend: W words, S slots, B bigrams, T texts, N tokens of a batch.
"""

# ruff: noqa: F401  the names that others import from here
from worldclip.metadata.ngrams.choose import best_bigrams, iter_bigrams_by_pmi, iter_unigrams, iter_words
from worldclip.metadata.ngrams.counter import MAX_BIGRAM_SLOTS, Counter, count_to_file
from worldclip.metadata.ngrams.runs import RUNS_VERSION, Counts, Run, Words, merge, merge_words, run_files
