"""What the decision reads of a shard: its matched texts by key, their probabilities, and what is left of them.

Legend: curate/decide.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core import keys
from worldclip.core.arrow import codes_of, list_buffers, one_array
from worldclip.core.coin import hash_keys, uniform_of_hashes
from worldclip.core.execute import Shard
from worldclip.curate.config import CurateConfig
from worldclip.curate.decide import decide, keep_prob_of_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The texts of a shard that match, grouped by key, with all that the decision reads besides probabilities."""

    keys_K: pa.Array
    hashes_K: np.ndarray
    starts_K1: np.ndarray
    is_valid_K: np.ndarray
    text_idx_T: np.ndarray
    lang_T: np.ndarray
    """Positions in lang_names."""
    lang_names: list[str]
    is_excluded_T: np.ndarray

    @property
    def drawable_T(self) -> np.ndarray:
        """Texts that may be kept: of a valid key, in a language that is not excluded."""
        return np.repeat(self.is_valid_K, np.diff(self.starts_K1)) & ~self.is_excluded_T

    def coins_T(self, config: CurateConfig, epoch: int = 0) -> np.ndarray:
        """(T,) float64: the coin of each text."""
        hashes = np.repeat(self.hashes_K, np.diff(self.starts_K1))
        return uniform_of_hashes(hashes, self.text_idx_T, config.seed, epoch)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What became of a shard's candidates."""

    kept_T: np.ndarray
    drawn_K: np.ndarray
    """Row of each key's drawn text under text_policy one; -1 where none is drawable, and under all."""
    is_over_T: np.ndarray
    """Texts that their coin would keep and a cap leaves out."""


def matched_shards(run_dir: Path) -> list[tuple[str, Path]]:
    """(shard's name, file of its matched texts) in the pool's order, which is that of the names."""
    folder = run_dir / "match" / "texts"
    names = (path.relative_to(folder).as_posix().removesuffix(".parquet") for path in folder.rglob("*.parquet"))
    return [(name, matched_path(run_dir, name)) for name in sorted(names)]


def matched_path(run_dir: Path, shard: Shard | str) -> Path:
    return run_dir / "match" / "texts" / f"{shard if isinstance(shard, str) else shard.name}.parquet"


def find_candidates(table: pa.Table, config: CurateConfig, key_lists: Sequence[keys.KeyList], shard: str) -> Candidates:
    """Rows (key, text_idx, lang) of RUN/match/texts/<shard> as the decision reads them."""
    key_column = one_array(table.column("key"))
    starts = key_starts(key_column)
    first_keys = key_column.take(pa.array(starts[:-1]))
    lang, lang_names = codes_of(table.column("lang"))
    excluded = np.array([config.is_excluded(name) for name in lang_names], np.bool_)
    return Candidates(
        keys_K=first_keys,
        hashes_K=hash_keys(first_keys),
        starts_K1=starts,
        is_valid_K=keys.is_valid(first_keys, key_lists, shard),
        text_idx_T=table.column("text_idx").to_numpy(),
        lang_T=lang,
        lang_names=lang_names,
        is_excluded_T=excluded[lang],
    )


def decide_on(
    candidates: Candidates, keep_prob: np.ndarray, config: CurateConfig, epoch: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """`decide` of a shard's candidates under the recipe's policy and seed, caps aside: (kept, drawn)."""
    return decide(
        config.text_policy,
        candidates.hashes_K,
        candidates.starts_K1,
        candidates.text_idx_T,
        candidates.drawable_T,
        keep_prob,
        seed=config.seed,
        epoch=epoch,
    )


def key_starts(key_column: pa.Array) -> np.ndarray:
    """(K + 1,) int64: where each key's run of rows begins, and the number of rows at the end."""
    if len(key_column) == 0:
        return np.zeros(1, np.int64)
    is_new = pc.not_equal(key_column[1:], key_column[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.flatnonzero(is_new) + 1, [len(key_column)]]).astype(np.int64)


def text_probs(table: pa.Table, entry_probs: Callable[[str], np.ndarray]) -> np.ndarray:
    """(T,) float64: each text's probability to be kept, from the probabilities of its list's entries."""
    code, list_names = codes_of(table.column("entries_lang"))
    entry_ids, offsets = list_buffers(table.column("entry_ids"))
    out = np.empty(table.num_rows, np.float64)
    for i, name in enumerate(list_names):
        keep_prob_of_rows(entry_ids, offsets, np.flatnonzero(code == i), entry_probs(name), out)
    return out


@functools.cache
def saved_probs(run_dir: Path, list_name: str, balance_digest: str) -> np.ndarray:
    """(num_entries,) float32 of a list in RUN/balance, memory-mapped once a process."""
    path = run_dir / "balance" / f"{list_name}.npy"
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
