"""Rows of many files by ranges of hashes: against a plain list, file by file or in groups."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from worldclip.core import shuffle
from worldclip.core.coin import hash_keys
from worldclip.core.execute import LocalExecutor, Shard


def write_files(folder: Path, num_files: int, seed: int = 0) -> list[tuple[int, str, int]]:
    """Write files of random rows; return (hash, key, file) of all, in the order in which a range has them."""
    draw = random.Random(seed)
    rows = []
    for number in range(num_files):
        keys = [f"k{draw.randrange(200)}" for _ in range(draw.randrange(40))]
        shuffle.write_rows(folder / f"{number}.arrow", pa.table({"key": pa.array(keys, pa.string())}))
        hashes = hash_keys(pa.array(keys, pa.string())).tolist()
        rows += sorted(((hash_, key, number) for hash_, key in zip(hashes, keys, strict=True)), key=lambda row: row[0])
    return rows


@pytest.mark.parametrize("max_opens", [10**9, 0])
def test_ranges_hold_every_row_once_in_the_order_of_the_files(tmp_path, monkeypatch, max_opens) -> None:
    monkeypatch.setattr(shuffle, "MAX_OPENS", max_opens)
    expected = write_files(tmp_path / "rows", 7)
    files = [Shard(name=str(number), path="") for number in range(7)]
    groups = shuffle.merge_groups(
        files,
        tmp_path / "rows",
        LocalExecutor(quiet=True),
        num_readers=3,
        num_rows=len(expected),
        label="groups",
        out=tmp_path / "groups",
        done_dir=tmp_path / "done",
        key={},
    )
    assert len(groups) == (0 if max_opens else 3)
    paths = [Path(group.path) for group in groups] or [tmp_path / "rows" / f"{file.name}.arrow" for file in files]
    for number in range(3):
        low, high = shuffle.range_bounds(3)[number : number + 2]
        inside = [row for row in expected if low <= row[0] and (high is None or row[0] < high)]
        found = shuffle.read_range(paths, number, 3)
        rows = list(zip(*(found[name].to_pylist() for name in ("hash", "key", "shard")), strict=True))
        of_hash = sorted(rows, key=lambda row: row[0])  # stable: within a hash, the order of the files
        assert of_hash == sorted(inside, key=lambda row: row[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_range_keeps_no_file_mapped(tmp_path) -> None:
    expected = write_files(tmp_path, 5)
    paths = [tmp_path / f"{number}.arrow" for number in range(5)]
    rows = shuffle.read_range(paths, 0, 1)
    assert len(rows) == len(expected)
    until = time.monotonic() + 10  # a thread of Arrow may hold the last reference for a moment
    while mapped := [path for path in paths if str(path) in Path("/proc/self/maps").read_text()]:
        assert time.monotonic() < until, mapped
        time.sleep(0.01)
    assert len(rows["key"].to_pylist()) == len(expected)
