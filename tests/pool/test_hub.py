"""Datasets of the hub as pools: the real client against a local server that answers as the hub does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_hub import FakeHub, serve_datasets
from pools import parquet_of, run_pool, structs
from tars import sample, write_tar
from worldclip import pool
from worldclip.core import remote
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute.shard_list import read_shards
from worldclip.pool.config import PoolConfig

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@pytest.fixture
def hub(monkeypatch):
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
}
TRAIN = ["data/train-00000.parquet", "data/train-00001.parquet"]


def names(path: str, **settings: str) -> list[str]:
    return [shard.name for shard in pool.list_shards(PoolConfig(path=path, key="id", **settings))]


# --- which files ------------------------------------------------------------------------------------------------------


def test_an_address_names_owner_and_dataset(hub: FakeHub) -> None:
    first = hub.commit("o/n", FILES)
    hub.commit("o/n", {})
    assert names(f"hf://datasets/o/n@{first}/") == TRAIN
    with pytest.raises(UserError, match="is hf://datasets/OWNER/NAME"):
        names("hf://datasets/squad")


def test_a_whole_dataset_is_its_training_files(hub: FakeHub) -> None:
    hub.commit("o/n", FILES)
    assert names("hf://datasets/o/n") == TRAIN
    hub.commit("o/n", {"0.parquet": FILES[TRAIN[0]], "sub/1.parquet": FILES[TRAIN[1]], ".hidden/2.parquet": b""})
    assert names("hf://datasets/o/n") == ["0.parquet", "sub/1.parquet"]


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


def test_folder_file_and_pattern_name_files_themselves(hub: FakeHub) -> None:
    hub.commit("o/n", FILES)
    assert names("hf://datasets/o/n/data") == ["test-00000.parquet", "train-00000.parquet", "train-00001.parquet"]
    assert names("hf://datasets/o/n/data/test-00000.parquet") == ["test-00000.parquet"]
    assert names("hf://datasets/o/n/**/*-00000.parquet") == ["data/test-00000.parquet", "data/train-00000.parquet"]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_pool_of_the_hub_is_read_like_a_local_one(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit("o/n", FILES)
    (tmp_path / "pool" / "data").mkdir(parents=True)
    for name in TRAIN:
        (tmp_path / "pool" / name).write_bytes(FILES[name])
    configs = [PoolConfig(path=path, key="id") for path in (str(tmp_path / "pool"), "hf://datasets/o/n")]
    for shards in zip(*map(pool.list_shards, configs), strict=True):
        here, there = (pool.read_texts(shard, configs[0]) for shard in shards)
        assert here.text.equals(there.text)
        images = [list(pool.read_images(shard, configs[0])[1]) for shard in shards]
        assert images[0] == images[1]
    assert hub.tokens == {"Bearer hf_of_the_test"}


def test_tars_of_the_hub_are_read_by_range(hub: FakeHub, tmp_path: Path) -> None:
    members = [*sample("000", "zero"), ("001.jpg", bytes(10**6)), ("001.txt", b"one")]
    hub.commit("o/n", {"train-0.tar": write_tar(tmp_path / "0.tar", members).read_bytes()})
    (shard,) = pool.list_shards(PoolConfig(path="hf://datasets/o/n"))
    index, _ = pool.index_of(shard, PoolConfig(path="pool"))
    hub.bytes_sent = 0
    row = index.to_pylist()[0]
    assert pool.read_member(shard.path, row["offset"], row["size"]).endswith(b"000")
    assert hub.bytes_sent < 1_000


def recorded(run: Path) -> dict[str, dict]:
    """Return the fingerprints of the indexed shards by name."""
    return {shard.name: shard.fingerprint for shard in read_shards(run / "pool/shards.parquet")}


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


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {"X-Error-Message": "Repository not found"}, r"no such repository, .*private \(401\).*hf auth login"),
        (403, {"X-Error-Code": "GatedRepo"}, r"access is gated \(403\); accept its terms"),
        (403, {"X-Error-Message": "Forbidden"}, r"access denied \(403\).*HF_TOKEN"),
        (404, {"X-Error-Code": "RevisionNotFound"}, r"no such repository, revision .*\(404\)"),
        (429, {"Retry-After": "7"}, r"too many requests, or busy \(429\); use fewer workers"),
        (500, {}, r"busy \(500\)"),
    ],
)
def test_refusal_says_what_to_do(hub: FakeHub, status: int, headers: dict, message: str) -> None:
    hub.commit("o/n", FILES)
    hub.refusals["o/n"] = (status, headers)
    with pytest.raises(UserError, match=f"pool.path = 'hf://datasets/o/n': .*{message}") as error:
        names("hf://datasets/o/n")
    assert "http://" not in str(error.value)


def test_refused_file_fails_alone(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit("o/n", FILES)
    hub.refusals[f"o/n/{TRAIN[1]}"] = (403, {"X-Error-Code": "GatedRepo"})
    with pytest.raises(StageFailed, match="access is gated") as error:
        run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")
    assert list(error.value.failures) == [TRAIN[1]]
    hub.refusals.clear()
    assert run_pool(tmp_path / "run", path="hf://datasets/o/n", key="id")


def test_errors_of_the_hubs_http_library_are_messages(monkeypatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    with pytest.raises(UserError, match=r"'hf://datasets/a/b': \[Errno -2\] Name or service not known"):
        names("hf://datasets/a/b")
