"""Candidates of all sources -> one language's entries in their final order, and what became of each candidate."""

from __future__ import annotations

import math
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from worldclip.core.errors import BadShard
from worldclip.language import table as languages
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import WikipediaCounts
from worldclip.metadata.sources.lists import read_list
from worldclip.metadata.sources.wordfreq import read_frequent_words
from worldclip.metadata.sources.wordnet import read_wordnet

NUM_NUMBERS = 100  # "0" to "99" in every language, first
NO_LENGTH_LIMIT = frozenset({"wordnet"})
RULES = ("empty", "punctuation", "too_long", "not_text", "duplicate")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

Entries = Iterator[tuple[str, float | None]]


@dataclass(kw_only=True, slots=True)
class EntryList:
    """Entries in their final order, and how many each rule took from each source."""

    entries: dict[str, None] = field(default_factory=dict)
    sources: list[tuple[str, int]] = field(default_factory=list)
    """(source, how many entries in a row are from it)."""
    scores: array[float] = field(default_factory=lambda: array("d"))
    """One an entry; NaN where it has none."""
    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, source: str, found: Entries, max_chars: int, limit: int | None = None) -> int:
        """Append what passes the rules; of equal entries the first stays, with its source and score.

        limit: on how many are kept, those that are there already not counted; what comes behind is not read.
        Returns how many were kept.
        """
        counts = self.rules.setdefault(source, dict.fromkeys(("in", *RULES, "kept"), 0))
        kept = 0
        for raw, score in found if limit != 0 else ():
            entry = raw.strip()
            counts["in"] += 1
            reason = _refusal(entry, max_chars if source not in NO_LENGTH_LIMIT else None)
            if reason is None and entry in self.entries:
                reason = "duplicate"
            counts[reason or "kept"] += 1
            if reason is None:
                self.entries[entry] = None
                self.scores.append(math.nan if score is None else score)
                kept += 1
                if kept == limit:
                    break
        self.sources.append((source, kept))
        return kept

    def table(self) -> pa.Table:
        """entry_id, entry, source, score of every entry."""
        names = [source for source, _ in self.sources]
        rows = np.repeat(np.arange(len(names), dtype=np.int32), [kept for _, kept in self.sources])
        columns = {
            "entry_id": pa.array(np.arange(len(self.entries), dtype=np.int32)),
            "entry": pa.array(self.entries.keys(), pa.string(), size=len(self.entries)),
            "source": pa.array(names, pa.string()).take(pa.array(rows)),
            "score": pa.array(np.frombuffer(self.scores, np.float64), from_pandas=True),
        }
        return pa.table(columns)


def _refusal(entry: str, max_chars: int | None) -> str | None:
    """Which rule refuses the entry; None where it may stay."""
    if not entry:
        return "empty"
    if max_chars is not None and len(entry) > max_chars:
        return "too_long"
    if is_punctuation(entry):
        return "punctuation"
    if not entry.isascii() and any("\ud800" <= char <= "\udfff" for char in entry):
        return "not_text"
    return None


def is_punctuation(entry: str) -> bool:
    """True where nothing but punctuation (category P*, ASCII's marks) and white space is in it."""
    if entry[0].isalnum():
        return False
    return all(
        char in _ASCII_PUNCTUATION or char.isspace() or unicodedata.category(char).startswith("P") for char in entry
    )


def has_words(lang: str, config: MetadataConfig, wikipedias: Sequence[str]) -> bool:
    """Whether a language has any source besides numbers; wikipedias: those of it that have files."""
    return (
        ("wordnet" in config.sources and lang in config.wordnets)
        or bool(wikipedias)
        or ("wordfreq" in config.sources and languages.get(lang).wordfreq is not None)
        or ("list" in config.sources and lang in config.lists)
    )


def build_entries(lang: str, config: MetadataConfig, wikipedias: Sequence[WikipediaCounts] = ()) -> EntryList:
    """The list of one language: numbers, WordNets, unigrams, bigrams, titles, wordfreq, plain list, in this order.

    wikipedias: what was counted of the Wikipedias that make this language; their lists are joined source by source,
    each with caps of its own.
    """
    built = EntryList()
    if "number" in config.sources:
        built.add("number", ((str(number), None) for number in range(NUM_NUMBERS)), config.max_chars)
    for wordnet in config.wordnets_of(lang):
        built.add("wordnet", read_wordnet(wordnet, lang), config.max_chars)
    _add_wikipedias(built, config, wikipedias)
    if "wordfreq" in config.sources and languages.get(lang).wordfreq:
        built.add("wordfreq", read_frequent_words(lang, config.wordfreq_top), config.max_chars)
    if path := config.list_of(lang):
        built.add("list", read_list(path), config.max_chars)
    if not built.entries:
        raise BadShard(
            f"{lang} has no entry from {', '.join(built.rules) or 'any source'}; give it metadata.lists.{lang}"
        )
    return built


def _add_wikipedias(built: EntryList, config: MetadataConfig, wikipedias: Sequence[WikipediaCounts]) -> None:
    with_text = [counted for counted in wikipedias if counted.counts is not None]
    num_unigrams = {}
    for counted in with_text:
        # Bigrams are a share of the unigrams kept; without unigrams in the list, of those that would be.
        place = built if "unigram" in config.sources else EntryList()
        num_unigrams[counted.wiki] = place.add("unigram", counted.unigrams(), config.max_chars, config.max_unigrams)
    for counted in with_text if "bigram" in config.sources else ():
        wanted = counted.max_bigrams(num_unigrams[counted.wiki])
        built.add("bigram", counted.bigrams(wanted, len(built.entries)), config.max_chars, wanted)
    for counted in wikipedias:
        if "title" in config.sources and counted.views:
            built.add("title", counted.titles(), config.max_chars, config.max_titles)
