"""What a worker needs to decide on a shard, and how it reads one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.core import artifacts, keys, layout
from worldclip.curate.candidates import Candidates, find_candidates, text_probs
from worldclip.curate.config import CurateConfig

DECIDING_COLUMNS = ("key", "text_idx", "lang", "entries_lang", "entry_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateWork:
    """All that a worker must know to decide on a shard."""

    run_dir: Path
    config: CurateConfig
    key_lists: tuple[keys.KeyList, ...]
    balance_digest: str
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Of languages over their cap, see curate/caps.py."""

    def entry_probs(self, list_name: str) -> np.ndarray:
        """Return the probabilities of a list's entries, (num_entries,) float32, memory-mapped once per process."""
        return _load_probs(self.run_dir, list_name, self.balance_digest)

    def read(
        self, shard: str, columns: Sequence[str] | None = DECIDING_COLUMNS
    ) -> tuple[pa.Table, Candidates, np.ndarray]:
        """Return the matched texts of a shard: the table, grouped by key, and their keep probabilities (T,) float64."""
        table = artifacts.read_table(layout.match_texts(self.run_dir, shard), artifacts.MATCH_TEXTS, columns)
        return table, find_candidates(table, self.config, self.key_lists, shard), text_probs(table, self.entry_probs)


@functools.cache
def _load_probs(run_dir: Path, list_name: str, balance_digest: str) -> np.ndarray:
    """Load the probabilities of a list; balance_digest: so that those of another balance are loaded again."""
    path = layout.entry_probs(run_dir, list_name)
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
