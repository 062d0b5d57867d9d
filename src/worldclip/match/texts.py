"""Language and entries of every text of a shard, and what a worker needs to find them.

Texts move as columns: no Python object per text between the pool's file and Parquet.
Legend: T texts of the shard, in the pool's order; M matches.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.core.arrow import names_of
from worldclip.language.assign import LanguageRules
from worldclip.match.config import MatchConfig
from worldclip.match.matcher.matcher import Matcher
from worldclip.pool import PoolTexts
from worldclip.pool.config import PoolConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchWork:
    """All that a worker must know to match a shard."""

    run_dir: Path
    pool: PoolConfig
    match: MatchConfig
    rules: LanguageRules
    """How a text gets its language; its languages are those with metadata in this run, sorted."""
    list_digests: tuple[tuple[str, str], ...]
    """(list, digest of its entries) of every list that texts are matched against."""

    def matcher(self, list_name: str) -> Matcher:
        """Return the compiled matcher of a list, memory-mapped once per process."""
        return _load_matcher(self.run_dir, list_name, self.match.matcher_name, dict(self.list_digests)[list_name])


@functools.cache
def _load_matcher(run_dir: Path, list_name: str, matcher_name: str, digest: str) -> Matcher:
    return Matcher.load(layout.matcher(run_dir, list_name, matcher_name), digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Language, entries and reason of each text of a shard."""

    reason: np.ndarray  # (T,) int8 codes of contracts.reasons; `kept` for a text with a match
    lang: np.ndarray  # (T,) int32 position in the run's languages, -1 for none
    lang_prob: np.ndarray  # (T,) float32
    labels: np.ndarray  # (T,) str, labels of the language-identification model or of the pool
    entry_ids: np.ndarray  # (M,) int32, all texts' entries end to end
    offsets: np.ndarray  # (T + 1,) int64: text i has entry_ids[offsets[i] : offsets[i + 1]]


def match_pool_texts(pool_texts: PoolTexts, work: MatchWork) -> Matched:
    """Return language and entries of each text; a text that the pool's reader dropped (null) has neither."""
    reason = pool_texts.reason.copy()
    lang, prob, labels = work.rules.find(pool_texts.text, pool_texts.lang)
    lang[reason != Reason.KEPT] = -1
    entry_ids, offsets = match_texts(pool_texts.text, lang, work)
    reason[(reason == Reason.KEPT) & (lang < 0)] = Reason.NO_LANGUAGE
    reason[(reason == Reason.KEPT) & (np.diff(offsets) == 0)] = Reason.NO_MATCH
    return Matched(reason=reason, lang=lang, lang_prob=prob, labels=labels, entry_ids=entry_ids, offsets=offsets)


def match_texts(texts: pa.Array, lang: np.ndarray, work: MatchWork) -> tuple[np.ndarray, np.ndarray]:
    """Match each text against the list of its language; a text of language -1 has no match.

    texts: (T,); lang: (T,) int32 position in work.rules.languages.
    Returns (entry_ids (M,) int32, offsets (T + 1,) int64).
    """
    list_names = [name for name, _ in work.list_digests]
    list_of_lang = np.array(
        [list_names.index(work.match.entry_lists.list_of(name)) for name in work.rules.languages] + [-1]
    )
    list_of_text = list_of_lang[lang]  # language -1 indexes the last element, -1
    # A matcher is fastest on many texts at once, so texts are grouped by list and put back in order afterwards.
    order = np.argsort(list_of_text, kind="stable")
    bounds = np.searchsorted(list_of_text[order], np.arange(len(list_names) + 1))  # texts without a list come first
    num_matches = np.zeros(len(texts), np.int64)
    ids = [np.zeros(0, np.int32)]
    for name, start, stop in zip(list_names, bounds[:-1], bounds[1:], strict=True):
        if start == stop:
            continue
        list_ids, offsets = work.matcher(name).match_batch(texts.take(pa.array(order[start:stop])))
        num_matches[start:stop] = np.diff(offsets)
        ids.append(list_ids)
    grouped = pa.LargeListArray.from_arrays(_offsets(num_matches), pa.array(np.concatenate(ids)))
    position = np.empty(len(order), np.int64)  # position of each text among the grouped ones
    position[order] = np.arange(len(order))
    in_pool_order = grouped.take(pa.array(position))
    return in_pool_order.flatten().to_numpy(), in_pool_order.offsets.to_numpy()


def matched_table(matched: Matched, work: MatchWork) -> pa.Table:
    """Return the rows of RUN/match/texts: the texts with a match, in the pool's order."""
    rows = np.flatnonzero(matched.reason == Reason.KEPT)
    # Texts without a match have no ids, so all ids belong to these rows and nothing is cut out between them.
    offsets = _offsets(np.diff(matched.offsets)[rows])
    list_names = [work.match.entry_lists.list_of(name) for name in work.rules.languages]
    return pa.table(
        {
            "row": rows,
            "lang": names_of(matched.lang[rows], work.rules.languages).dictionary_encode(),
            "lang_prob": matched.lang_prob[rows],
            "entries_lang": names_of(matched.lang[rows], list_names).dictionary_encode(),
            "entry_ids": pa.LargeListArray.from_arrays(offsets, pa.array(matched.entry_ids)),
        }
    )


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)])
