"""The matched texts of a shard as the keep decision reads them, what a worker needs for it, and the decision on each.

Legend: curate/decide.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts import layout, schemas
from worldclip.contracts.matched import read_matched_texts
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, keys
from worldclip.core.arrow import codes_of, list_buffers, one_array
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.execute import Shard
from worldclip.curate.config import CurateConfig
from worldclip.curate.decide import decide, draw_weights, keep_prob_of_rows

DECIDING_COLUMNS = ("key", "text_idx", "place", "lang", "entries_lang", "entry_ids")
TEXT_COLUMNS = (*DECIDING_COLUMNS, "text", "lang_prob")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The matched texts of a shard, grouped by key, with all that the decision reads besides probabilities."""

    keys_K: pa.Array
    hashes_K: np.ndarray
    starts_K1: np.ndarray
    is_valid_K: np.ndarray
    text_idx_T: np.ndarray
    lang_T: np.ndarray  # positions in lang_names
    lang_names: list[str]
    is_excluded_T: np.ndarray  # True: in an excluded language
    drawable_T: np.ndarray  # True: may be kept, being of a valid key and in a language that is not excluded
    draw_weight_T: np.ndarray  # see decide.draw_weights

    def per_text(self, values_K: np.ndarray) -> np.ndarray:
        """Repeat a value of each key for each of its texts."""
        return np.repeat(values_K, np.diff(self.starts_K1))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decisions on a shard's candidates in one epoch."""

    candidates: Candidates
    config: CurateConfig
    keep_prob_T: np.ndarray
    kept_T: np.ndarray
    drawn_K: np.ndarray  # row of each key's drawn text under text_policy one; -1 where none is drawable, and under all

    @property
    def coin_T(self) -> np.ndarray:
        """The coin of each text in epoch 0, (T,) float64."""
        candidates = self.candidates
        return uniform_of_hashes(candidates.per_text(candidates.hashes_K), candidates.text_idx_T, self.config.seed, 0)

    @functools.cached_property
    def reason_T(self) -> np.ndarray:
        """(T,) int8 codes of reasons; -1 for a text that was not drawn, on which nothing was decided."""
        is_valid_T = self.candidates.per_text(self.candidates.is_valid_K)
        conditions = [~is_valid_T, self.candidates.is_excluded_T, self.kept_T]
        reasons = [Reason.NOT_VALID, Reason.EXCLUDED, Reason.KEPT]
        undecided = -1 if self.config.text_policy == "one" else Reason.SAMPLED_OUT
        reason = np.select(conditions, reasons, undecided).astype(np.int8)
        drawn = self.drawn_K[self.drawn_K >= 0]
        reason[drawn[~self.kept_T[drawn]]] = Reason.SAMPLED_OUT
        return reason

    @property
    def decided_rows(self) -> np.ndarray:
        """The texts that reports count: under text_policy all every text, under `one` a single text of each key.

        That is the drawn text.  Where none could be drawn, all texts of the key are not valid or excluded; the first
        one stands for them.
        """
        if self.config.text_policy == "all":
            return np.arange(len(self.kept_T))
        return np.where(self.drawn_K >= 0, self.drawn_K, self.candidates.starts_K1[:-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateWork:
    """All that a worker must know to decide on a shard."""

    run_dir: Path
    config: CurateConfig
    key_lists: tuple[keys.KeyList, ...]
    balance_digest: str
    text_weights: tuple[float, ...] = ()  # of [pool]
    factors: Mapping[str, float] = field(default_factory=dict)  # factors of the languages over their cap
    is_mapped: bool = True  # share entry probabilities with other processes; False: copy them

    def entry_probs(self, list_name: str) -> np.ndarray:
        """Return the probabilities of a list's entries, (num_entries,) float32, loaded once per process.

        A disk that fails under a memory map ends the process (SIGBUS); a copy raises OSError while it is read.
        """
        return _load_probs(self.run_dir, list_name, self.balance_digest, self.is_mapped)

    def read(self, shard: str, *, with_texts: bool = False) -> tuple[pa.Table, Candidates, np.ndarray]:
        """Return the matched texts of a shard: the table, grouped by key, and their keep probabilities (T,) float64.

        with_texts: all columns of the table, not only those that decide.
        """
        columns = TEXT_COLUMNS if with_texts else DECIDING_COLUMNS
        table = read_matched_texts(self.run_dir, shard, columns)
        candidates = self.candidates(table, shard)
        return table, candidates, self.keep_probs(table, candidates)

    def keep_probs(self, table: pa.Table, candidates: Candidates) -> np.ndarray:
        """Return each text's keep probability under the caps, (T,) float64."""
        factor_of_lang = np.array([self.factors.get(name, 1.0) for name in candidates.lang_names])
        probs: np.ndarray = text_probs(table, self.entry_probs) * factor_of_lang[candidates.lang_T]
        return probs

    def valid_keys(self, shard: str) -> pa.Array:
        """Return the valid keys of a shard's matched texts, each once: no epoch keeps another."""
        candidates = self.candidates(read_matched_texts(self.run_dir, shard, DECIDING_COLUMNS), shard)
        return candidates.keys_K.filter(pa.array(candidates.is_valid_K))

    def candidates(self, table: pa.Table, shard: str) -> Candidates:
        """Group matched texts of a shard, with DECIDING_COLUMNS, by key."""
        key_column = one_array(table.column("key"))
        starts = key_starts(key_column)
        first_keys = key_column.take(pa.array(starts[:-1]))
        is_valid = keys.is_valid(first_keys, self.key_lists, shard)
        lang, lang_names = codes_of(table.column("lang"))
        is_excluded = np.array(list(map(self.config.is_excluded, lang_names)), np.bool_)[lang]
        drawable = np.repeat(is_valid, np.diff(starts)) & ~is_excluded
        weights = drawable.astype(np.float64)
        if self.text_weights:
            weights = draw_weights(starts, drawable, table.column("place").to_numpy(), self.text_weights)
        return Candidates(
            keys_K=first_keys,
            hashes_K=hash_keys(first_keys),
            starts_K1=starts,
            is_valid_K=is_valid,
            text_idx_T=table.column("text_idx").to_numpy(),
            lang_T=lang,
            lang_names=lang_names,
            is_excluded_T=is_excluded,
            drawable_T=drawable,
            draw_weight_T=weights,
        )


@functools.cache
def _load_probs(run_dir: Path, list_name: str, balance_digest: str, is_mapped: bool) -> np.ndarray:
    """Load the probabilities of a list; balance_digest: so that those of another balance are loaded again."""
    path = layout.entry_probs(run_dir, list_name)
    return np.asarray(np.load(path, mmap_mode="r" if is_mapped else None, allow_pickle=False))


def key_starts(key_column: pa.Array) -> np.ndarray:
    """Return (K + 1,) int64: where each key's run of rows begins, and the number of rows at the end."""
    if len(key_column) == 0:
        return np.zeros(1, np.int64)
    is_new = pc.not_equal(key_column[1:], key_column[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(key_column)]]).astype(np.int64)


def text_probs(table: pa.Table, entry_probs: Callable[[str], np.ndarray]) -> np.ndarray:
    """Return each text's keep probability, (T,) float64; entry_probs: list -> (num_entries,) probabilities."""
    code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    probs = np.empty(table.num_rows, np.float64)
    for i, name in enumerate(list_names):
        keep_prob_of_rows(entry_ids, offsets, np.flatnonzero(code == i), entry_probs(name), probs)
    return probs


def decide_on(candidates: Candidates, keep_prob: np.ndarray, config: CurateConfig, epoch: int = 0) -> Decision:
    """Decide which candidates are kept in `epoch`, under the recipe's policy and seed; keep_prob: (T,) float64."""
    kept_T, drawn_K = decide(
        config.text_policy,
        candidates.hashes_K,
        candidates.starts_K1,
        candidates.text_idx_T,
        candidates.draw_weight_T,
        keep_prob,
        seed=config.seed,
        epoch=epoch,
    )
    return Decision(candidates=candidates, config=config, keep_prob_T=keep_prob, kept_T=kept_T, drawn_K=drawn_K)


def read_curated(run_dir: Path, shard: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the kept pairs of a shard: key, text_idx, text, lang, keep_prob, in the pool's order."""
    name = shard if isinstance(shard, str) else shard.name
    return artifacts.read_table(layout.curated(run_dir, name), schemas.CURATED, columns)
