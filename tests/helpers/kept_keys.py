"""Kept pairs with 128-bit hex keys, as curate leaves them."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.execute import Shard


def hex_keys(kind: str, number: int) -> list[str]:
    """Return keys with repeats: random ones, or ones that differ in few digits only."""
    digits = [hashlib.md5(str(i).encode(), usedforsecurity=False).hexdigest() for i in range(number)]
    names = {"random": digits, "low": [f"{i:032x}" for i in range(number)], "one": [f"{7:032x}"] * number}[kind]
    return [*names, *names[::5]]


def write_curated(
    run: Path, names: list[str], num_shards: int, *, is_new: bool = True
) -> tuple[list[Shard], list[int]]:
    """Write kept pairs of these keys, dealt to shards of differing sizes, one of them empty, unless not `is_new`.

    Return the shards and the number of pairs of each.
    """
    shards, num_kept = [], []
    at = np.linspace(0, 1, num_shards + 1) ** 2 * len(names)
    edges = [0, 0, *at.astype(int)[1:].tolist()]
    for i, (start, stop) in enumerate(pairwise(edges)):
        part = names[start:stop]
        rows = [{"key": key, "text_idx": 0, "text": key, "lang": "en", "keep_prob": 1.0} for key in part]
        shard = Shard(name=f"{i % 2}/{i:03}.tar", path="")
        if is_new:
            table = pa.Table.from_pylist(rows, schemas.CURATED)
            artifacts.write_table(layout.curated(run, shard.name), table, schemas.CURATED)
        shards.append(shard)
        num_kept.append(len(part))
    return shards, num_kept
