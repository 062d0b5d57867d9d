"""The matched texts of a shard, with what RUN/pool says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.contracts import layout
from worldclip.contracts.schemas import MATCH_TEXTS, POOL_PAIRS
from worldclip.core.artifacts import read_table

OF_POOL = ("key", "text_idx", "place", "text")  # columns of RUN/pool/pairs


def read_matched_texts(run_dir: Path, shard: str, columns: Sequence[str]) -> pa.Table:
    """Return columns of the texts of a shard with a match, in the pool's order: of RUN/match/texts and OF_POOL."""
    of_pool = [name for name in columns if name in OF_POOL]
    of_match = [name for name in columns if name not in OF_POOL]
    matched = read_table(layout.match_texts(run_dir, shard), MATCH_TEXTS, ["row", *of_match])
    if of_pool:
        pairs = read_table(layout.pool_pairs(run_dir, shard), POOL_PAIRS, of_pool)
        rows = matched["row"].to_numpy()
        if not np.array_equal(rows, np.arange(len(pairs))):
            pairs = pairs.take(pa.array(rows))
        for name in of_pool:
            matched = matched.append_column(name, pairs[name])
    return matched.select(list(columns))
