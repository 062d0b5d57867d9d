"""Why a key is not valid: the lists of a recipe that speak against it, and what a check says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from worldclip.core.keys import KeyList, is_valid


def why_not_valid(key: str, lists: Sequence[KeyList], shard: str) -> list[str]:
    """A line for each list that keeps `key` of that shard out; [] where none does.

    A valid list of `worldclip pool check` stands beside removed.parquet, which names the rule.
    """
    lines = []
    for one in lists:
        if is_valid(pa.array([key]), [one], shard)[0]:
            continue
        if one.setting != "pool.valid_keys":
            lines.append(f"denied: it is in {one.setting} {one.path}")
            continue
        removals = read_removals(Path(one.path).with_name("removed.parquet"), key)
        lines += removals or [f"it is not in {one.setting} {one.path}"]
    return lines


def read_removals(path: Path, key: str) -> list[str]:
    """What a check's removed.parquet says of `key`, a line for each shard that holds it; [] where it says nothing."""
    if not path.is_file():
        return []
    rows = ds.dataset(path).to_table(filter=pc.field("key") == key).to_pylist()
    lines = []
    for row in rows:
        words = [f"removed by {row['rule']}", f"in {row['shard']}"]
        words += [f"({row['detail']})"] if row["detail"] else []
        words += [f"for {row['other_key']}"] if row["other_key"] is not None else []
        words += [f"at distance {row['distance']}"] if row["distance"] is not None else []
        lines.append(f"{' '.join(words)}: {path}")
    return lines
