"""One language's entries in their final order, from the candidates of all sources, and the fate of each candidate."""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from worldclip.core.errors import BadShard
from worldclip.language import characters
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Candidates, WikipediaCounts
from worldclip.metadata.sources.lists import read_list
from worldclip.metadata.sources.packages import PACKAGED, packaged_sources
from worldclip.metadata.sources.pool import PoolCounts
from worldclip.metadata.sources.wordnet import read_wordnet, wordnets_of

NUM_NUMBERS = 100  # "0" to "99" in every language, first
NO_LENGTH_LIMIT = frozenset({"wordnet"})  # as in the reference
RULES = ("empty", "punctuation", "too_long", "not_text", "duplicate")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@dataclass(kw_only=True, slots=True)
class EntryList:
    """Entries in their final order, and how many candidates of each source each rule dropped."""

    entries: dict[str, None] = field(default_factory=dict)
    sources: list[tuple[str, int]] = field(default_factory=list)
    """(source, number of consecutive entries from it)."""
    scores: array[float] = field(default_factory=lambda: array("d"))
    """One per entry; NaN if it has none."""
    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, source: str, candidates: Candidates, max_chars: int, limit: int | None = None) -> int:
        """Append the candidates that pass the rules; of equal entries the first stays, with its source and score.

        limit: number of entries to keep, at which reading stops; candidates that are entries already do not count.
        Returns the number of entries kept.
        """
        counts = self.rules.setdefault(source, dict.fromkeys(("in", *RULES, "kept"), 0))
        kept = 0
        for raw, score in candidates if limit != 0 else ():
            entry = raw.strip()
            rule = _rule_against(entry, max_chars if source not in NO_LENGTH_LIMIT else None)
            if rule is None and entry in self.entries:
                rule = "duplicate"
            counts["in"] += 1
            counts[rule or "kept"] += 1
            if rule is None:
                self.entries[entry] = None
                self.scores.append(math.nan if score is None else score)
                kept += 1
                if kept == limit:
                    break
        self.sources.append((source, kept))
        return kept

    def table(self) -> pa.Table:
        """Return entry_id, entry, source and score of every entry."""
        names = [source for source, _ in self.sources]
        source_idx = np.repeat(np.arange(len(names), dtype=np.int32), [kept for _, kept in self.sources])
        columns = {
            "entry_id": pa.array(np.arange(len(self.entries), dtype=np.int32)),
            "entry": pa.array(self.entries.keys(), pa.string(), size=len(self.entries)),
            "source": pa.array(names, pa.string()).take(pa.array(source_idx)),
            "score": pa.array(np.frombuffer(self.scores, np.float64), from_pandas=True),
        }
        return pa.table(columns)


def _rule_against(entry: str, max_chars: int | None) -> str | None:
    """Return the rule of RULES that drops the entry; None if it stays."""
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
    """Return whether an entry consists of punctuation (category P*, ASCII's marks) and whitespace only."""
    if entry[0].isalnum():  # no punctuation, whatever Unicode version the interpreter has; nearly all entries end here
        return False
    return _marks_and_blanks().issuperset(entry)


@functools.cache
def _marks_and_blanks() -> frozenset[str]:
    return characters.punctuation() | _ASCII_PUNCTUATION | frozenset(characters.WHITESPACE)


def has_words(lang: str, config: MetadataConfig, wikipedias: Sequence[str]) -> bool:
    """Return whether a language has any source besides numbers; wikipedias: those of it that have files.

    Whether the pool has words of a language is not known before they are counted; here it counts as a source.
    """
    return "pool" in config.sources or has_own_words(lang, config, wikipedias)


def has_own_words(lang: str, config: MetadataConfig, wikipedias: Sequence[str]) -> bool:
    """Return whether a language has any source besides numbers and the pool."""
    return bool(wikipedias or wordnets_of(lang, config) or config.list_of(lang) or packaged_sources(lang, config))


def build_entries(
    lang: str,
    config: MetadataConfig,
    wikipedias: Sequence[WikipediaCounts] = (),
    pool_counts: PoolCounts | None = None,
) -> EntryList:
    """Return the list of one language: numbers, WordNets, unigrams, bigrams, titles, packages, plain list, the pool.

    wikipedias: counts of the Wikipedias of this language; their lists are joined source by source, each with its own
    caps.  pool_counts: of the pool's texts in this language, if the pool is a source.
    """
    built = EntryList()
    if "number" in config.sources:
        built.add("number", ((str(number), None) for number in range(NUM_NUMBERS)), config.max_chars)
    for wordnet in wordnets_of(lang, config):
        built.add("wordnet", read_wordnet(wordnet, lang), config.max_chars)
    with_text = [wikipedia for wikipedia in wikipedias if wikipedia.counts is not None]
    num_unigrams = {}
    for wikipedia in with_text:
        # The cap on bigrams is a share of the unigrams kept; if unigrams are no source, of those that would be kept.
        target = built if "unigram" in config.sources else EntryList()
        candidates, wanted = wikipedia.unigrams()
        num_unigrams[wikipedia.wiki] = target.add("unigram", candidates, config.max_chars, wanted)
    for wikipedia in with_text if "bigram" in config.sources else ():
        wanted = wikipedia.max_bigrams(num_unigrams[wikipedia.wiki])
        built.add("bigram", wikipedia.bigrams(wanted, len(built.entries)), config.max_chars, wanted)
    for wikipedia in wikipedias if "title" in config.sources else ():
        if titles := wikipedia.titles():
            candidates, wanted = titles
            built.add("title", candidates, config.max_chars, wanted)
    for source in packaged_sources(lang, config):
        built.add(source, PACKAGED[source].read(lang, config), config.max_chars)
    if path := config.list_of(lang):
        built.add("list", read_list(path), config.max_chars)
    if pool_counts is not None:
        _add_pool(built, config, pool_counts)
        if not has_own_words(lang, config, [wikipedia.wiki for wikipedia in wikipedias]):
            _require_pool_words(lang, config, built)
    if not built.entries:
        raise BadShard(f"no entry of {lang} from {', '.join(built.rules) or 'any source'}; set metadata.lists.{lang}")
    return built


def _add_pool(built: EntryList, config: MetadataConfig, pool_counts: PoolCounts) -> None:
    """Append the pool's words, and a share of them as pairs of words."""
    num_unigrams = built.add("pool", pool_counts.unigrams(config), config.max_chars, config.max_pool_unigrams)
    rules = config.wikipedia_rules
    num_wanted = rules.share(rules.bigram_fraction, num_unigrams)
    bigrams = pool_counts.bigrams(config, num_wanted, len(built.entries))
    built.add("pool", bigrams, config.max_chars, num_wanted)


def _require_pool_words(lang: str, config: MetadataConfig, built: EntryList) -> None:
    """Raise BadShard if the pool gave no word of a language, unless metadata.allow_missing allows it."""
    if built.rules["pool"]["in"] or "pool" in config.allow_missing:
        return
    raise BadShard(
        f"the pool has no word of {lang} that reaches metadata.pool_min_count = {config.pool_min_count}, and no other"
        f" source has words of it; remove {lang} from languages.codes, or to go on without: metadata.allow_missing ="
        ' ["pool"]'
    )
