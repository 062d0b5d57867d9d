"""Pools at URLs: memory, a local HTTP server, and S3 as moto emulates it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from pools import pool_recipe, run_pool, write_lines, write_table
from served import static_host
from stages import QUIET, context
from tars import PNG, sample, write_tar
from toy import encode_png
from worldclip import pool
from worldclip.check import CheckConfig, check
from worldclip.core.errors import UserError
from worldclip.pool.config import PoolConfig
from worldclip.pool.listing import list_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tar(tmp_path / "tars" / "0.tar", [*sample("000", "zero"), *sample("001", "eins")])
    write_tar(tmp_path / "tars" / "sub" / "1.tar", sample("000", "two"))
    rng = np.random.default_rng(0)
    one, other = (encode_png(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(2))
    pictures = [("a.png", one), ("a.txt", b"a"), ("b.png", one), ("b.txt", b"b"), ("c.png", other), ("c.txt", b"c")]
    write_tar(tmp_path / "pictures" / "0.tar", pictures)
    write_table(tmp_path / "tables" / "0.parquet", {"uid": ["a", "b"], "text": ["red", None]})
    write_lines(tmp_path / "lines" / "0.jsonl", [{"uid": "a", "text": "red"}, {"uid": "b"}])
    return tmp_path


@pytest.fixture
def at_http(folder: Path) -> Iterator[str]:
    with static_host(folder) as address:
        yield address


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    files = fsspec.filesystem("memory")
    files.put(str(folder) + "/", "/world", recursive=True)
    yield "memory://world"
    files.rm("/world", recursive=True)


@pytest.fixture
def at_s3(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("world")
    files.put(str(folder) + "/", "world/", recursive=True)
    yield "s3://world"
    files.rm("world", recursive=True)
    server.stop()


@pytest.fixture(params=["in_memory", "at_http", "at_s3"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_remote_pool_reads_like_local_pool(url: str, folder: Path, tmp_path: Path) -> None:
    for kind, settings in (("tars", {}), ("tables", {"key": "uid"}), ("lines", {"key": "uid"})):
        remote, local = (pool_recipe(path=f"{place}/{kind}", **settings) for place in (url, folder))
        shards, here = pool.shards(context(remote, tmp_path / "run")), pool.shards(context(local, tmp_path / "run"))
        assert [shard.name for shard in shards] == [shard.name for shard in here]
        assert [shard.fingerprint["size"] for shard in shards] == [shard.fingerprint["size"] for shard in here]
        for one, other in zip(shards, here, strict=True):
            actual, expected = (pool.read_texts(shard, remote.pool) for shard in (one, other))
            assert (actual.key, actual.text) == (expected.key, expected.text)
            assert actual.reason.tolist() == expected.reason.tolist()


def test_a_shard_costs_two_requests_per_stage(at_s3: str, tmp_path: Path, monkeypatch) -> None:
    """One for its bytes and one for its tag, whatever its format; the first one is also looked at before the map."""
    serving = pytest.importorskip("werkzeug.serving")
    requests: list[tuple[str, str]] = []
    monkeypatch.setattr(
        serving.WSGIRequestHandler, "log_request", lambda self, *_: requests.append((self.command, self.path))
    )
    for kind, key in (("tars", "member"), ("tables", "uid"), ("lines", "uid")):
        write_table(tmp_path / "more.parquet", {"uid": ["c"], "text": ["blue"]})
        fsspec.filesystem("s3").put(str(tmp_path / "more.parquet"), "world/tables/1.parquet")
        requests.clear()
        assert run_pool(tmp_path / kind, path=f"{at_s3}/{kind}", key=key)
        for name in {path for _, path in requests if "." in path and "0." not in path}:
            assert sorted(method for method, path in requests if path == name) == ["GET", "HEAD"]
        heads = [path for method, path in requests if method == "HEAD"]
        assert len(heads) == len(set(heads)), "the tag of each shard is asked for once"
        assert heads


def test_images_of_remote_pool_are_read_by_offset(url: str, tmp_path: Path) -> None:
    recipe = pool_recipe(path=f"{url}/tars")
    run_pool(tmp_path / "run", path=f"{url}/tars")
    shard = pool.shards(context(recipe, tmp_path / "run"))[0]
    index = pool.read_index(tmp_path / "run", shard).to_pylist()
    assert [pool.read_member(shard.path, row["offset"], row["size"]) for row in index] == [PNG + b"000", PNG + b"001"]
    assert not run_pool(tmp_path / "run", path=f"{url}/tars")


def test_check_of_remote_pool_equals_check_of_local_pool(url: str, folder: Path, tmp_path: Path) -> None:
    results = []
    for number, place in enumerate((url, folder)):
        out = tmp_path / f"out{number}"
        check(PoolConfig(path=f"{place}/pictures"), out, CheckConfig(), executor=QUIET)
        tables = {name: pq.read_table(out / f"{name}.parquet").to_pydict() for name in ("valid_keys", "removed")}
        results.append((tables, (out / "report.html").read_text(encoding="utf-8")))
    assert results[0] == results[1]
    assert results[0][0]["valid_keys"]["key"] == ["a", "c"]
    assert results[0][0]["removed"]["rule"] == ["byte_duplicate"]
    assert "<img" in results[0][1], "thumbnails are read from where the images are"


@pytest.mark.parametrize("path", ["memory://nothing-here", "nosuchprotocol://a/b", "http://127.0.0.1:9/pool"])
def test_url_that_cannot_be_listed_is_an_error(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pool\.path = '.*': (cannot be listed|no files)"):
        pool.shards(context(pool_recipe(path=path), tmp_path / "run"))


def test_a_store_that_cannot_be_reached_is_an_error_in_words(monkeypatch):
    """The hub's HTTP library raises errors that are no OSError."""

    def fail(url: str) -> None:
        raise RuntimeError("[Errno -2] Name or service not known")

    monkeypatch.setattr(fsspec, "url_to_fs", fail)
    with pytest.raises(UserError, match=r"'hf://nobody/nothing': cannot be listed .* Name or service not known"):
        list_files("hf://nobody/nothing")
