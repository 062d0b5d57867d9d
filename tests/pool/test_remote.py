"""Pools at URLs: memory, a local HTTP server, S3 as moto emulates it, and the hub's client against a local server."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from fake_hub import FakeHub, serve_datasets
from pools import images_of, parquet_of, pool_recipe, run_pool, structs, texts_of, write_lines, write_table
from served import static_host
from stages import context
from tars import sample, write_tar
from worldclip import pool
from worldclip.core import remote
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import Shard
from worldclip.core.execute.shard_list import ShardList
from worldclip.pool import listing
from worldclip.pool.config import PoolConfig


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tar(tmp_path / "tars" / "0.tar", [*sample("000", "zero"), *sample("001", "eins")])
    write_tar(tmp_path / "tars" / "sub" / "1.tar", sample("000", "two"))
    write_table(tmp_path / "tables" / "0.parquet", {"uid": ["a", "b"], "text": ["red", None]})
    write_lines(tmp_path / "lines" / "0.jsonl", [{"uid": "a", "text": "red"}, {"uid": "b"}])
    return tmp_path


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
def url(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "at_http":
        with static_host(folder) as address:
            yield address
    else:
        yield request.getfixturevalue(request.param)


def test_remote_pool_reads_like_local_pool(url: str, folder: Path, tmp_path: Path) -> None:
    for kind, settings in (("tars", {}), ("tables", {"key": "uid"}), ("lines", {"key": "uid"})):
        remote, local = (pool_recipe(path=f"{place}/{kind}", **settings) for place in (url, folder))
        shards, here = (
            pool.list_pool(context(remote, tmp_path / "run")),
            pool.list_pool(context(local, tmp_path / "run")),
        )
        assert [shard.name for shard in shards] == [shard.name for shard in here]
        assert [shard.fingerprint["size"] for shard in shards] == [shard.fingerprint["size"] for shard in here]
        for one, other in zip(shards, here, strict=True):
            actual, expected = (texts_of(shard, remote.pool) for shard in (one, other))
            assert (actual.key, actual.text) == (expected.key, expected.text)
            assert actual.reason.tolist() == expected.reason.tolist()
            assert images_of(one, remote.pool)[1] == images_of(other, local.pool)[1]


def test_a_shard_costs_one_request(at_s3: str, tmp_path: Path, monkeypatch) -> None:
    """Whatever its format; the listing has its tag.  A Parquet file is read by ranges: its footer and its columns."""
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
            methods = [method for method, path in requests if path == name]
            assert set(methods) == {"GET"}
            assert len(methods) == 1 or kind == "tables"


@pytest.mark.parametrize("path", ["memory://nothing-here", "nosuchprotocol://a/b", "http://127.0.0.1:9/pool"])
def test_url_that_cannot_be_listed_is_an_error(path: str) -> None:
    with pytest.raises(UserError, match=r"pool\.path = '.*': (cannot be listed|no files)"):
        pool.list_shards(PoolConfig(path=path))


def test_a_question_mark_in_a_pattern_of_a_url_is_itself(in_memory: str) -> None:
    files = fsspec.filesystem("memory")
    for name in ("a?.jsonl", "ab.jsonl"):
        files.pipe(f"/world/marks/{name}", b'{"uid": "a", "text": "red"}')
    shards = pool.list_shards(PoolConfig(path=f"{in_memory}/marks/*?.jsonl", key="uid"))
    assert [shard.name for shard in shards] == ["a?.jsonl"]


@pytest.mark.parametrize("kind", ["tars", "tables", "lines"])
def test_a_shard_that_changes_in_a_store_is_read_anew_by_the_same_process(at_s3: str, folder: Path, kind: str) -> None:
    config = PoolConfig(path=f"{at_s3}/{kind}", key="member" if kind == "tars" else "uid")

    def read() -> list[tuple[Shard, list[str | None]]]:
        return [(shard, texts_of(shard, config).text.to_pylist()) for shard in pool.list_shards(config)]

    before = read()
    assert read() == before
    write_tar(folder / "tars/0.tar", sample("002", "three"))
    write_table(folder / "tables/0.parquet", {"uid": ["a"], "text": ["three"]})
    write_lines(folder / "lines/0.jsonl", [{"uid": "a", "text": "three"}])
    fsspec.filesystem("s3", skip_instance_cache=True).put(f"{folder}/{kind}/", f"world/{kind}/", recursive=True)
    (shard, texts), *_ = read()
    assert (shard == before[0][0], texts) == (False, ["three"])


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    monkeypatch.setattr(remote, "BUSY_S", 0.0)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with serve_datasets(monkeypatch) as served:
        yield served


def parquet(texts: list[str]) -> bytes:
    images = structs([bytes([number]) * 50 for number in range(len(texts))])
    return parquet_of({"id": texts, "text": texts, "image": images}, row_group_size=2)


FILES = {
    "README.md": b"---\n---\n",
    "data/train-00000.parquet": parquet(["a", "b", "c"]),
    "data/train-00001.parquet": parquet(["d", "e"]),
    "data/test-00000.parquet": parquet(["f"]),
    "data2/0.parquet": parquet(["g"]),
}
TRAIN = ["data/train-00000.parquet", "data/train-00001.parquet"]


def names(path: str) -> list[str]:
    return [shard.name for shard in pool.list_shards(PoolConfig(path=path, key="id"))]


def test_address_names_a_revision_a_folder_a_file_a_pattern_or_the_training_files(hub: FakeHub) -> None:
    first = hub.commit("o/n", FILES)
    assert names("hf://datasets/o/n") == TRAIN
    assert names("hf://datasets/o/n/data") == ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    assert names("hf://datasets/o/n/data/test-00000.parquet") == ["test-00000.parquet"]
    assert names("hf://datasets/o/n/**/*-00000.parquet") == ["data/test-00000.parquet", "data/train-00000.parquet"]
    hub.commit("o/n", {"0.parquet": FILES[TRAIN[0]], "sub/1.parquet": FILES[TRAIN[1]], ".hidden/2.parquet": b""})
    assert names("hf://datasets/o/n") == ["0.parquet", "sub/1.parquet"]
    assert names(f"hf://datasets/o/n@{first}/") == TRAIN
    with pytest.raises(UserError, match="is hf://datasets/OWNER/NAME"):
        names("hf://datasets/squad")


def test_card_says_the_data_files(hub: FakeHub) -> None:
    splits = [{"split": "gold", "path": ["gold/de.parquet", "no/such"]}, {"split": "train", "path": "de/*.parquet"}]
    configs = [{"config_name": "de", "data_files": splits}, {"config_name": "all", "data_files": "**/*.parquet"}]
    broken = [{"config_name": 7}, "broken"]
    files = dict.fromkeys(("de/0.parquet", "de/sub/1.parquet", "gold/de.parquet", "fr/0.parquet"), b"")
    hub.commit("o/n", files, {"configs": configs + broken})
    with pytest.raises(UserError, match=r"has 2 configs; add the path of one to the address: de: .*all: "):
        names("hf://datasets/o/n")
    hub.commit("o/n", files, {"configs": [configs[0], *broken]})
    assert names("hf://datasets/o/n") == ["de/0.parquet"]
    hub.commit("o/n", files, {"configs": [{"config_name": "one", "data_files": splits[:1]}]})
    assert names("hf://datasets/o/n") == ["gold/de.parquet"]
    hub.commit("o/n", files, {"configs": [configs[0], {**configs[1], "default": True}]})
    assert len(names("hf://datasets/o/n")) == 4
    of_two_folders = [{"split": "train", "path": ["fr/*", "gold/*"]}]
    of_two_splits = [{"split": "train", "path": path} for path in ("fr/*", "gold/*")]
    for data_files in (of_two_folders, of_two_splits):
        data_files.append({"split": "test", "path": "de/*"})
        hub.commit("o/n", files, {"configs": [{"config_name": "one", "data_files": data_files}]})
        assert names("hf://datasets/o/n") == ["fr/0.parquet", "gold/de.parquet"]


def test_pool_of_the_hub_is_read_like_a_local_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit("o/n", FILES)
    (tmp_path / "pool" / "data").mkdir(parents=True)
    for name in TRAIN:
        (tmp_path / "pool" / name).write_bytes(FILES[name])
    configs = [PoolConfig(path=path, key="id") for path in (str(tmp_path / "pool"), "hf://datasets/o/n")]
    for shards in zip(*map(pool.list_shards, configs), strict=True):
        here, there = (texts_of(shard, configs[0]) for shard in shards)
        assert here.text.equals(there.text)
        images = [list(images_of(shard, configs[0])[1]) for shard in shards]
        assert images[0] == images[1]
    assert hub.tokens == {"Bearer hf_of_the_test"}


def test_tars_of_the_hub_are_read_by_range(hub: FakeHub, tmp_path: Path) -> None:
    members = [*sample("000", "zero"), ("001.jpg", bytes(10**6)), ("001.txt", b"one")]
    hub.commit("o/n", {"train-0.tar": write_tar(tmp_path / "0.tar", members).read_bytes()})
    (shard,) = pool.list_shards(PoolConfig(path="hf://datasets/o/n"))
    index = pool.read_shard(shard, PoolConfig(path="pool")).images
    hub.bytes_sent = 0
    row = index.to_pylist()[0]
    assert pool.read_member(shard.path, row["offset"], row["size"]).endswith(b"000")
    assert hub.bytes_sent < 1_000


def recorded(run: Path) -> dict[str, dict]:
    """Return the fingerprints of the indexed shards by name."""
    return {shard.name: shard.fingerprint for shard in ShardList.read(run / "pool/shards.parquet")}


def test_files_are_listed_once_and_never_asked_for_again(hub: FakeHub, tmp_path: Path) -> None:
    first = hub.commit("o/n", FILES)
    run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")
    assert hub.asked["tree"] == 1
    assert hub.asked["paths-info"] == 0
    shards = recorded(tmp_path / "run")
    assert [shard["path"] for shard in shards.values()] == TRAIN
    assert all(len(shard["stamp"]) == 40 for shard in shards.values())
    hub.asked.clear()
    assert not run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")
    assert hub.asked.total() == hub.asked["info"] == 1

    hub.commit("o/n", FILES | {TRAIN[1]: parquet(["d", "x"])})
    assert run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")
    changed = recorded(tmp_path / "run")
    assert [name for name in TRAIN if shards[name] != changed[name]] == [TRAIN[1]]
    assert run_pool(tmp_path / "run", path=f"hf://datasets/o/n@{first}", key="id")
    assert recorded(tmp_path / "run") == shards


def test_pool_of_the_hub_is_known_by_its_folder_at_any_revision() -> None:
    rests = ("/a", "@main/a", "@refs/pr/1/a", "@main/b", "")
    locations = [PoolConfig(path=f"hf://datasets/o/n{rest}").location for rest in rests]
    assert locations == [f"hf://datasets/o/n{folder}" for folder in ("/a", "/a", "/a", "/b", "")]


def test_refused_file_fails_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit("o/n", FILES)
    hub.refusals[f"o/n/{TRAIN[1]}"] = (403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(StageFailed, match="access is gated") as error:
        run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")
    assert list(error.value.failures) == [TRAIN[1]]
    hub.refusals = {"o/n": (404, {"X-Error-Code": "RevisionNotFound"})}
    with pytest.raises(UserError, match=r"pool\.path = 'hf://datasets/o/n': .*no such repository, revision"):
        names("hf://datasets/o/n")
    hub.refusals.clear()
    assert run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")


def test_errors_of_a_stores_http_library_are_messages(hub: FakeHub, monkeypatch) -> None:
    """They are no OSError."""

    class TransportError(RuntimeError):
        pass

    def offline(*_: object, **__: object) -> None:
        raise TransportError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    monkeypatch.setattr(listing.fsspec, "url_to_fs", offline)
    for path, said in (("hf://datasets/a/b", "no network, or the hub"), ("s3://bucket/pool", "cannot be listed")):
        with pytest.raises(UserError, match=rf"'{path}': {said} .*Name or service not known"):
            names(path)
