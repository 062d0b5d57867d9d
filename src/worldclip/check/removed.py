"""Explain why a key is not valid: the recipe's lists that exclude it, and the rule of the check that removed it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from worldclip.core.keys import KeyList, is_valid


def why_not_valid(key: str, lists: Sequence[KeyList], shard: str) -> list[str]:
    """Return a line for each list that excludes `key` of that shard; [] if none does.

    A valid list that `worldclip pool check` wrote is next to removed.parquet, which names the rule.
    """
    lines = []
    for key_list in lists:
        if is_valid(pa.array([key]), [key_list], shard)[0]:
            continue
        if key_list.setting != "pool.valid_keys":
            lines.append(f"denied: it is in {key_list.setting} {key_list.path}")
            continue
        path = Path(key_list.path).with_name("removed.parquet")
        rows = ds.dataset(path).to_table(filter=pc.field("key") == key).to_pylist() if path.is_file() else []
        for row in rows:
            other = f" for {row['other_key']}" if row["other_key"] is not None else ""
            distance = f" at distance {row['distance']}" if row["distance"] is not None else ""
            lines.append(f"removed by {row['rule']} in {row['shard']}{other}{distance}: {path}")
        if not rows:
            lines.append(f"it is not in {key_list.setting} {key_list.path}")
    return lines
