"""The kept keys as DataComp's subset file: sorted and unique pairs of u8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldclip.contracts import layout
from worldclip.core import artifacts, keys
from worldclip.core.execute import Shard
from worldclip.curate.candidates import read_curated


def write_keys(run_dir: Path, shards: Sequence[Shard]) -> int | None:
    """Write RUN/curate/keys.npy if all kept keys are 128-bit hex; return the number of keys.

    None, and no file, where a key is not hex or nothing is kept.  One sort: 64 bytes of memory per kept pair.
    """
    parts = [np.zeros((0, 2), np.uint64)]
    for shard in shards:
        pairs, is_hex = keys.hex_pairs(read_curated(run_dir, shard, ["key"]).column("key"))
        if not is_hex.all():
            parts = parts[:1]
            break
        parts.append(pairs)
    sorted_keys = keys.sort_pairs(np.concatenate(parts))
    if not len(sorted_keys):
        layout.kept_keys(run_dir).unlink(missing_ok=True)
        return None
    artifacts.write_array(layout.kept_keys(run_dir), sorted_keys)
    return len(sorted_keys)
