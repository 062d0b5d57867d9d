"""A shard that becomes shorter while it is read (rsync --inplace, a full file server) fails alone and by name.

A map of such a file would end the process with SIGBUS, so the readers run in a child process.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from programs import python
from tars import sample, write_tar

CHILD = """
import json, os, sys
from worldclip import pool
from worldclip.core.errors import BadShard
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.kernels import tar_headers
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import parquet
from worldclip.pool.formats.tar import read_samples
from worldclip.pool.read import read_images

folder = sys.argv[1]
tar, table = (Shard(name=name, path=f"{folder}/{name}") for name in ("0.tar", "0.parquet"))
wholes = {shard.path: open(shard.path, "rb").read() for shard in (tar, table)}
plain_scan, plain_file = tar_headers.scan, parquet.pq.ParquetFile


def restore():
    for path, content in wholes.items():
        open(path, "wb").write(content)


def cut(shard):
    os.truncate(shard.path, len(wholes[shard.path]) // 2)


def scan_cut(window):
    cut(tar)
    return plain_scan(window)


def scan_then_cut(window):
    members = plain_scan(window)
    cut(tar)
    window.bounds[:] = 0  # what is in memory stays readable
    return members


def file_cut(file, **how):
    opened = plain_file(file, **how)
    cut(table)
    return opened


def read_every_image():
    return list(read_images(tar, PoolConfig())[1])


of_json = PoolConfig(key="json:uid", texts=("json:text",))
of_table = PoolConfig(key="uid", texts=("text",))
cases = {}
for name, scan in (("scan", scan_cut), ("content", scan_then_cut)):
    tar_headers.scan = scan
    cases |= {
        f"{name} txt": lambda: pool.read_texts(tar, PoolConfig()),
        f"{name} json": lambda: pool.read_texts(tar, of_json),
        f"{name} keys": lambda: pool.read_keys(tar, of_json),
        f"{name} images": read_every_image,
    }
    for case in [case for case in cases if case.startswith(name)]:
        restore()
        try:
            cases[case]()
        except BadShard as error:
            cases[case] = str(error)
tar_headers.scan = plain_scan
restore()
parquet.pq.ParquetFile = file_cut
try:
    pool.read_texts(table, of_table)
except BadShard as error:
    cases["parquet"] = str(error)
print(json.dumps(cases))
"""


def test_readers_of_a_file_that_is_cut_meanwhile_fail_the_shard(tmp_path: Path) -> None:
    members = [
        member
        for number in range(400)
        for member in sample(f"{number:06}", f"text {number}" * 90, {"uid": f"k{number}", "text": "x" * 900})
    ]
    write_tar(tmp_path / "0.tar", members)
    uids = [f"uid {number * 7919:09}" for number in range(50_000)]
    pq.write_table(pa.table({"uid": uids, "text": uids}), tmp_path / "0.parquet", row_group_size=5000)
    reasons = json.loads(python("-c", CHILD, tmp_path))
    assert len(reasons) == 9
    for case, reason in reasons.items():
        assert ("damaged" if case == "parquet" else "cut off while it was read") in reason, case
