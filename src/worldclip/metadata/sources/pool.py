"""The pool's own texts as a source: the words and pairs of words of each language, counted shard by shard.

RUN/metadata/pool/<shard>.counts    runs of all languages, one behind the other
RUN/metadata/pool/<shard>.json      where they are: {language: {"texts": number, "parts": [[start, ...], ...]}}
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.core.artifacts import read_json, write_artifact, write_json
from worldclip.core.execute import Report, Shard, reads_input, repeatable
from worldclip.core.reasons import Reason
from worldclip.language import segment
from worldclip.language.assign import LanguageRules
from worldclip.metadata import ngrams
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import Candidates, Record
from worldclip.pool.config import PoolConfig

POOL, POOL_DONE = "pool", "done/pool"
POOL_LICENCE = "that of the pool's texts"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolWork:
    """All that a worker must know to count a shard."""

    folder: Path  # RUN/metadata
    pool: PoolConfig
    rules: LanguageRules
    codes: frozenset[str]  # languages whose texts are counted


def pool_files(folder: Path, shard_name: str) -> tuple[Path, Path]:
    """Return the files of a shard's counts: the runs, and where they are."""
    return folder / POOL / f"{shard_name}.counts", folder / POOL / f"{shard_name}.json"


@repeatable
@reads_input
def count_shard(shard: Shard, *, work: PoolWork) -> Report:
    """Count the words and bigrams of each language's texts; texts that match would drop are left out.

    One language is counted at a time, so besides the shard's texts the tables of one count are in memory.
    """
    counts_path, places_path = pool_files(work.folder, shard.name)
    places: Record = {}
    texts = pool.read_texts(shard, work.pool)

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            for lang, of_lang in _by_language(texts, work):
                scheme = segment.scheme_of_code(lang)
                counter = ngrams.PartCounter(counts_path, file, scheme)
                counter.add(segment.segment(of_lang, scheme))
                places[lang] = {"texts": len(of_lang), "parts": [list(part[1:]) for part in counter.finish()]}

    write_artifact(counts_path, write)
    write_json(places_path, places)
    return {"pairs": len(texts.text)}


def _by_language(texts: pool.PoolTexts, work: PoolWork) -> Iterator[tuple[str, pa.Array]]:
    """Yield each counted language that has texts, in sorted order, with its texts in the shard's order."""
    lang_T, _, _ = work.rules.find(texts.text, texts.lang)
    lang_T[texts.reason != Reason.KEPT] = -1
    order = np.argsort(lang_T, kind="stable")
    bounds = np.searchsorted(lang_T[order], np.arange(len(work.rules.languages) + 1))
    for lang, start, stop in zip(work.rules.languages, bounds[:-1], bounds[1:], strict=True):
        if start < stop and lang in work.codes:
            yield lang, texts.text.take(pa.array(order[start:stop]))


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolCounts:
    """The counts of one language over all shards."""

    num_texts: int
    counts: ngrams.Counts
    joiner: str

    def unigrams(self, config: MetadataConfig) -> Candidates:
        """Return words by falling count."""
        return ngrams.iter_unigrams(self.counts, min_count=config.pool_min_count)

    def bigrams(self, config: MetadataConfig, num_wanted: int, num_entries: int) -> Candidates:
        """Return bigrams by falling PMI: enough for `num_wanted` new ones if `num_entries` are entries already."""
        if num_wanted == 0:
            return iter(())
        first = num_wanted + num_entries
        return ngrams.iter_bigrams_by_pmi(self.counts, self.joiner, first=first, min_count=config.pool_min_count)


@contextlib.contextmanager
def open_pool_counts(lang: str, shard_names: Sequence[str], folder: Path) -> Iterator[PoolCounts]:
    """Yield the counts of a language, summed over the pool's shards."""
    num_texts = 0
    parts: list[ngrams.Part] = []
    for name in shard_names:
        counts_path, places_path = pool_files(folder, name)
        if place := read_json(places_path).get(lang):
            num_texts += place["texts"]
            parts += [ngrams.Part(counts_path, *part) for part in place["parts"]]
    with tempfile.TemporaryDirectory(prefix=".merge_", dir=folder) as scratch:
        counts = ngrams.merge(parts, Path(scratch))
        yield PoolCounts(num_texts=num_texts, counts=counts, joiner=segment.scheme_of_code(lang).joiner)
