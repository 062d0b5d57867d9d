"""The pool's own texts: the most frequent words of each language, and pairs of them."""

from __future__ import annotations

from worldclip.language import segment
from worldclip.metadata.counting import Record
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.ngrams import runs
from worldclip.metadata.source import Inputs, Source

LICENCE = "that of the pool's texts"
MAX_UNIGRAMS = 100_000  # words of a language that are not entries yet; bigram_fraction says how many pairs go with them


def reads_pool(inputs: Inputs) -> list[Record]:
    """Return the pool; whether it has words of a language is not known before they are counted."""
    counted = {} if inputs.pool_digest is None else {"digest": inputs.pool_digest}
    return [{"source": "pool", **counted, "licence": LICENCE}]


def add_words(entries: EntryList, inputs: Inputs) -> None:
    """Append the words with their occurrences, then pairs of them with their mutual information, log2."""
    counts = inputs.pool_counts
    if counts is None:
        return
    least = inputs.config.pool_min_count
    unigrams = runs.iter_unigrams(counts, min_count=least)
    num_unigrams = entries.add("pool", unigrams, MAX_UNIGRAMS)
    rules = inputs.config.wikipedia_rules
    num_wanted = rules.share(rules.bigram_fraction, num_unigrams)
    joiner = segment.scheme_of(inputs.lang, inputs.languages).joiner
    first = num_wanted + len(entries.entries)
    bigrams = runs.iter_bigrams_by_pmi(counts, joiner, first=first, min_count=least)
    entries.add("pool", bigrams, num_wanted)


POOL = Source(add_words, reads_pool, should_have=lambda inputs: True)
