"""A shard that becomes shorter while it is read (rsync --inplace, a full file server) fails alone and by name.

A map of such a file would end the process with SIGBUS, so the readers run in worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pools import write_table
from tars import sample, shard_of, write_tar
from worldclip import pool
from worldclip.core.errors import StageFailed
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.kernels import tar_headers
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import parquet

TXT, JSON = PoolConfig(), PoolConfig(key="json:uid", texts=("json:text",))
READERS: dict[str, Callable[[Shard], object]] = {
    "txt": lambda shard: pool.read_texts(shard, TXT),
    "json": lambda shard: pool.read_texts(shard, JSON),
    "keys": lambda shard: pool.read_keys(shard, JSON),
    "images": lambda shard: list(pool.read_images(shard, TXT)[1]),
    "table": lambda shard: pool.read_texts(shard, PoolConfig(key="uid", texts=("text",))),
}


def read_while_it_is_cut(shard: Shard) -> dict[str, int]:
    """Read a shard, called READER.SUFFIX or READER.WHEN.tar, whose second half goes as a scan or the file opens."""
    plain_scan, plain_file = tar_headers.scan, parquet.pq.ParquetFile

    def cut() -> None:
        os.truncate(shard.path, os.path.getsize(shard.path) // 2)

    def scan(window):
        if ".before." in shard.name:
            cut()
        members = plain_scan(window)
        if ".after." in shard.name:
            cut()
            window.bounds[:] = 0  # what is in memory stays readable
        return members

    def open_table(file, **how):
        opened = plain_file(file, **how)
        cut()
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_headers, "scan", scan)
        patch.setattr(parquet.pq, "ParquetFile", open_table)
        READERS[shard.name.split(".")[0]](shard)
    return {}


def test_readers_of_a_file_that_is_cut_meanwhile_fail_the_shard(tmp_path: Path) -> None:
    numbers = range(400)
    records = [(f"{n:06}", f"text {n}" * 90, {"uid": f"k{n}", "text": "x" * 900}) for n in numbers]
    members = [member for record in records for member in sample(*record)]
    for reader in ("txt", "json", "keys", "images"):
        for when in ("before", "after"):
            write_tar(tmp_path / "pool" / f"{reader}.{when}.tar", members)
    uids = [f"uid {number * 7919:09}" for number in range(50_000)]
    write_table(tmp_path / "pool" / "table.parquet", {"uid": uids, "text": uids}, row_group_size=5000)
    shards = [shard_of(path) for path in sorted((tmp_path / "pool").iterdir())]
    executor = LocalExecutor(workers=2, quiet=True)
    with pytest.raises(StageFailed) as failed:
        executor.map(read_while_it_is_cut, shards, label="x", done_dir=tmp_path / "done", key={})
    reasons = failed.value.failures
    assert reasons.keys() == {shard.name for shard in shards}
    for name, reason in reasons.items():
        assert ("damaged" if name == "table.parquet" else "cut off while it was read") in reason, name
