"""Files at URLs: how often a store is asked, what it refuses said with a remedy, and downloads that resume."""

import hashlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from served import Server
from served import server as server
from worldclip.core import parquet_size, remote
from worldclip.core.download import Client, Download
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.execute import LocalExecutor, Shard
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.inputs import fingerprint_of
from worldclip.pool import files
from worldclip.pool.listing import list_files
from worldclip.pool.row_groups import open_parquet

exceptions = pytest.importorskip("botocore.exceptions", reason="botocore is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

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
        if errors:
            raise errors.pop(0)
        return counted(self, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refusing)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(remote, "BUSY_S", 5.0)
    return errors


def shard_of(url: str) -> Shard:
    return Shard.of_file(url.rsplit("/", 1)[-1], url)


def read_in_many_ways(shard: Shard) -> dict:
    """Read as the pool's formats do, again and again."""
    contents = [files.read_bytes(shard.path), files.FileBytes(shard.path).read(0, 1000)]
    for reads_ahead in (True, False):
        with files.open_file(shard.path, reads_ahead=reads_ahead) as file:
            contents.append(file.read())
    return {"contents": sorted({content.hex() for content in contents})}


def test_a_large_table_costs_no_column_that_is_not_read(requests, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    keys = [f"{n:04}" for n in range(2000)]
    path = "/store/0.bin"
    table = pa.table({"key": keys, "image": [rng.bytes(1000) for _ in keys]})
    with fsspec.filesystem("memory").open(path, "wb") as file:
        pq.write_table(table, file, row_group_size=500)
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100_000)
    monkeypatch.setattr(parquet_size, "SMALL_FILE_BYTES", 100_000)  # a smaller file is counted, and read whole
    num_bytes = []
    plain = MemoryFile.read
    monkeypatch.setattr(MemoryFile, "read", lambda file, size=-1: num_bytes.append(size) or plain(file, size))

    def read_keys(shard: Shard) -> dict:
        with open_parquet(shard.path) as file:
            return {"keys": file.read(columns=["key"])["key"].to_pylist()}

    assert read_keys(shard_of(URLS[0])) == {"keys": keys}
    assert min(num_bytes) > 0
    assert sum(num_bytes) < 400_000, "of two million"


def test_a_busy_store_is_asked_again_and_one_that_stays_busy_fails_all_shards_in_one_line(busy, tmp_path: Path) -> None:
    read_all = partial(LocalExecutor(quiet=True).map, read_in_many_ways, label="index", done_dir=tmp_path, key={})
    busy += [Busy()] * 3
    reports = read_all([shard_of(url) for url in URLS])
    assert [report["contents"] for report in reports] == [["00" * 1000], ["01" * 1000]]
    fingerprint = shard_of(URLS[0]).fingerprint
    many = [Shard(name=f"{n:03}.bin", path=URLS[0], fingerprint=fingerprint) for n in range(30)]
    busy += [Busy()] * 1000
    with pytest.raises(StageFailed) as failed:
        read_all(many)
    lines = str(failed.value).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("  000.bin, 001.bin, ")
    assert "and 20 more: cannot be read (too many requests, or busy (SlowDown); use fewer workers" in lines[1]


def test_other_errors_are_not_tried_again(busy) -> None:
    for error in (Busy("AccessDenied", 403), Busy("NoSuchKey", 404), FileNotFoundError("gone")):
        busy.append(error)
        with pytest.raises(BadShard, match="cannot be read"):
            files.read_bytes(URLS[0])
        assert busy == []


# what a store refuses


ANSWERS = [  # code, status, what is wrong, what to do
    ("NoSuchBucket", 404, "no such bucket", "check the path"),
    ("404", 404, "no such bucket, folder or file", "check the path"),
    ("AccessDenied", 403, "access denied", "anon"),
    ("ExpiredToken", 400, "refused the request", "credentials"),
    ("SlowDown", 503, "too many requests", "fewer workers"),
    ("InternalError", 500, "busy", "later"),
]


def client_error(code: str, status: int) -> Exception:
    response = {"Error": {"Code": code, "Message": "secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(response, "GetObject")


def test_answer_of_a_store_is_said_with_a_remedy() -> None:
    for code, status, reason, remedy in ANSWERS:
        answer = client_error(code, status)
        for error in (answer, s3fs.errors.translate_boto_error(answer)):
            text = explain(error)
            assert all(words in text for words in (reason, remedy, code))
            assert "\n" not in text
            assert "secret" not in text


def test_other_errors_of_a_store_and_of_the_system_are_one_line() -> None:
    gone = {"endpoint_url": "http://x?sig=abc"}
    for error, reason in (
        (exceptions.NoCredentialsError(), "no credentials were found"),
        (exceptions.ProfileNotFound(profile="mine"), "no credentials were found"),
        (exceptions.EndpointConnectionError(**gone), "cannot be reached"),
        (exceptions.ReadTimeoutError(**gone), "cannot be reached"),
        (PermissionError(13, "Permission denied", "file"), "Permission denied"),
        (ValueError("first\nsecond"), "first"),
    ):
        assert reason in explain(error)
        assert "sig" not in explain(error)
        assert "\n" not in explain(error)
    assert explain_answer(OSError("words")) is None


def read_opened(url: str) -> None:
    with files.open_file(url) as file:
        file.read(4)


READERS = [files.read_bytes, lambda url: files.read_range(url, 0, 4), files.FileBytes, read_opened]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (client_error("NoSuchBucket", 404), "no such"),
        (client_error("SlowDown", 503), "too many requests"),
        (exceptions.EndpointConnectionError(endpoint_url="x"), "the store cannot be reached"),
    ],
)
def test_shard_and_pool_that_a_store_refuses_say_why(error, reason, requests, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise s3fs.errors.translate_boto_error(error)

    with monkeypatch.context() as patched:
        patched.setattr(remote, "BUSY_S", 0.0)
        for name in ("cat_file", "info", "_open", "ls", "find"):
            patched.setattr(MemoryFileSystem, name, refuse)
        for read in READERS:
            with pytest.raises(BadShard, match=rf"cannot be read \({reason}.*;.*\)"):
                read(URLS[0])
        assert reason in fingerprint_of(URLS[0], "0.bin")["unreadable"]
        with pytest.raises(UserError, match=reason):
            list_files("memory://store")


# downloads


def test_part_of_a_file_is_resumed_only_under_a_checksum(server: Server, tmp_path: Path) -> None:
    old, new = b"a" * 3000, b"b" * 3000
    path = tmp_path / "list.bin"
    for content, sha256, starts in ((new, None, [0]), (old, hashlib.sha256(old).hexdigest(), [0, 500])):
        (tmp_path / "list.bin.part").write_bytes(old[:500])
        server.files["/list.bin"] = content
        download = Download(url=f"{server.url}/list.bin", path=path, sha256=sha256)
        Client(user_agent="worldclip", pause=lambda seconds: None).fetch(download)
        assert path.read_bytes() == content
        assert server.starts == starts
        assert list(tmp_path.iterdir()) == [path]
