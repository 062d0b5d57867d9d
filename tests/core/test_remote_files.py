"""Files at URLs: how often a store is asked, and what is done when it is busy."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from worldclip.core import remote
from worldclip.core.errors import BadShard, InputChanged, StageFailed
from worldclip.core.execute import LocalExecutor, Shard, reads_input
from worldclip.core.execute.shards import read_unchanged
from worldclip.pool import files
from worldclip.pool.row_groups import open_parquet

URLS = ("memory://store/0.bin", "memory://store/1.bin")


class Busy(Exception):
    """As botocore raises it; s3fs raises OSError from it."""

    def __init__(self, code: str = "SlowDown", status: int = 503) -> None:
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """The requests to two files in a store, by kind and path; a request beyond `Busy` errors at the front fails."""
    made: list[tuple[str, str]] = []
    memory = fsspec.filesystem("memory")
    for number, url in enumerate(URLS):
        memory.pipe(url, bytes([number]) * 1000)
    for name in ("cat_file", "info", "_open"):
        monkeypatch.setattr(MemoryFileSystem, name, counting(name, getattr(MemoryFileSystem, name), made))
    yield made
    memory.rm("/store", recursive=True)


def counting(name: str, plain: Callable, made: list[tuple[str, str]]) -> Callable:
    def counted(self, path, *arguments, **options):
        made.append((name, path.rsplit("/", 1)[-1]))
        return plain(self, path, *arguments, **options)

    return counted


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch, requests) -> list[Exception]:
    """The errors of the next reads; waits are short."""
    errors: list[Exception] = []
    counted = MemoryFileSystem.cat_file

    def refusing(self, *arguments, **options):
        content = counted(self, *arguments, **options)
        if errors:
            raise errors.pop(0)
        return content

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refusing)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(remote, "BUSY_S", 5.0)
    return errors


def shard_of(url: str) -> Shard:
    return Shard.of_file(url.rsplit("/", 1)[-1], url)


@reads_input
def read_in_many_ways(shard: Shard) -> dict:
    """Read as the pool's formats do, again and again."""
    contents = [files.read_bytes(shard.path), files.FileBytes(shard.path).read(0, 1000)]
    for reads_ahead in (True, False):
        with files.open_file(shard.path, reads_ahead=reads_ahead) as file:
            contents.append(file.read())
    return {"contents": sorted({content.hex() for content in contents})}


@pytest.mark.parametrize("url", URLS)
def test_a_small_file_costs_a_request_for_its_bytes_and_one_for_its_tag(url: str, requests) -> None:
    shard = shard_of(url)
    requests.clear()
    expected = fsspec.filesystem("memory").store["/store/" + shard.name].getvalue().hex()
    for _ in range(2):
        assert read_unchanged(read_in_many_ways, shard)["contents"] == [expected]
    assert Counter(requests) == {("cat_file", shard.name): 2, ("info", shard.name): 2}
    assert remote.kept_file(url) is None, "what was read of a shard goes with its work"


def test_a_large_table_costs_its_footer_once_and_no_column_that_is_not_read(requests, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    wide = {
        "key": pa.array([f"{n:04}" for n in range(2000)]),
        "image": pa.array([rng.bytes(1000) for _ in range(2000)]),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(wide), sink, row_group_size=500)
    content = sink.getvalue().to_pybytes()
    fsspec.filesystem("memory").pipe(URLS[0], content)
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100_000)
    num_bytes = []
    plain = remote.read_range
    monkeypatch.setattr(remote, "read_range", lambda *place: num_bytes.append(place[2] - place[1]) or plain(*place))

    def read_keys(shard: Shard) -> dict:
        tables = []
        for _ in range(3):
            with open_parquet(shard.path) as file:
                tables.append(file.read(columns=["key"])["key"].to_pylist())
        return {"is_right": tables == [wide["key"].to_pylist()] * 3}

    shard = shard_of(URLS[0])
    requests.clear()
    assert read_unchanged(read_keys, shard) == {"is_right": True}
    assert sum(num_bytes) < len(content) // 10
    assert len(num_bytes) <= 2 * 4 + 2, "the footer, and the key's pages of each row group"
    assert ("_open", shard.name) not in requests


def test_a_change_of_a_remote_file_is_noticed_by_one_question(requests) -> None:
    shard = shard_of(URLS[0])

    def read_and_replace(shard: Shard) -> dict:
        report = read_in_many_ways(shard)
        fsspec.filesystem("memory").pipe(shard.path, b"other")
        return report

    with pytest.raises(InputChanged, match="changed after it was listed"):
        read_unchanged(read_and_replace, shard)


def test_a_busy_store_is_asked_again(busy, requests, tmp_path: Path) -> None:
    shards = [shard_of(url) for url in URLS]
    busy += [Busy()] * 3
    options = {"label": "index", "done_dir": tmp_path / "done", "key": {}}
    reports = LocalExecutor(quiet=True).map(read_in_many_ways, shards, **options)
    assert [report["contents"] for report in reports] == [["00" * 1000], ["01" * 1000]]


def test_a_store_that_stays_busy_fails_all_shards_in_one_line(busy, requests, tmp_path: Path) -> None:
    shard = shard_of(URLS[0])
    many = [Shard(name=f"{n:03}.bin", path=URLS[0], fingerprint={**shard.fingerprint}) for n in range(30)]
    busy += [Busy()] * 1000
    requests.clear()
    with pytest.raises(StageFailed) as failed:
        LocalExecutor(quiet=True).map(read_in_many_ways, many, label="index", done_dir=tmp_path / "done", key={})
    lines = str(failed.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  000.bin, 001.bin, ")
    assert "and 20 more: cannot be read (too many requests, or busy (SlowDown); use fewer workers" in lines[1]


@pytest.mark.parametrize("error", [Busy("AccessDenied", 403), Busy("NoSuchKey", 404), FileNotFoundError("gone")])
def test_other_errors_are_not_tried_again(error: Exception, busy, requests) -> None:
    busy.append(error)
    with pytest.raises(BadShard, match="cannot be read"):
        files.read_bytes(URLS[0])
    assert busy == []
