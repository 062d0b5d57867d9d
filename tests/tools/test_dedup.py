"""`pool dedup` against a dict: which copy of a key stays, and what the list denies."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import killed
from pools import write_table
from stages import QUIET
from worldclip.contracts.schemas import DUPLICATES
from worldclip.core import keys, spill
from worldclip.core.artifacts import read_json, read_table
from worldclip.core.errors import StageFailed
from worldclip.pool.config import PoolConfig
from worldclip.tools.dedup import dedup

Shards = dict[str, list[str | None]]


def pool_of(folder: Path, **settings: object) -> PoolConfig:
    return PoolConfig(**{"path": str(folder), "key": "uid", **settings})


def write_pool(folder: Path, shards: Shards) -> Path:
    for name, of_shard in shards.items():
        write_table(folder / name, {"uid": pa.array(of_shard, pa.string()), "text": ["x"] * len(of_shard)})
    return folder


def run(folder: Path, shards: Shards) -> dict[str, int]:
    """Write shards of FOLDER/pool, and the copies of the pool into FOLDER/out; return the report."""
    return dedup(pool_of(write_pool(folder / "pool", shards)), folder / "out", executor=QUIET)


def plain_copies(shards: Shards) -> list[tuple[str, str, str]]:
    """(shard, key, first shard) in a dict that holds the whole pool."""
    first: dict[str, str] = {}
    copies = []
    for name in sorted(shards):
        for key in dict.fromkeys(filter(None, shards[name])):
            if key in first:
                copies.append((name, key, first[key]))
            first.setdefault(key, name)
    return copies


def listed(out: Path) -> list[tuple[str, str, str]]:
    table = read_table(out / "duplicates.parquet", DUPLICATES)
    return [(row["shard"], row["key"], row["first_shard"]) for row in table.to_pylist()]


def random_shards(seed: int) -> Shards:
    rng = random.Random(seed)
    names = [*(f"{i:03}.parquet" for i in range(5)), "a-b.parquet", "a/b.parquet"]
    keys_of_pool = [None, "", "ü", "𝄞", "a" * 40, "b" * 100, *map(str, range(150))]
    return {name: rng.choices(keys_of_pool, k=60) for name in names}


def test_first_shard_keeps_its_copy(tmp_path):
    report = run(tmp_path, {"b.parquet": ["k", "m"], "a.parquet": ["k", "l", "k", None], "c.parquet": ["m", "k"]})
    copies = [("b.parquet", "k", "a.parquet"), ("c.parquet", "m", "b.parquet"), ("c.parquet", "k", "a.parquet")]
    assert listed(tmp_path / "out") == copies
    assert report == read_json(tmp_path / "out/report.json")
    counts = {"shards": 3, "pairs": 8, "no_identity": 1, "repeated_in_shard": 1, "copies": 3, "keys": 3}
    assert report == counts | {"skipped": {}}
    run(tmp_path / "none", {"a.parquet": ["k"], "b.parquet": ["m"]})
    assert pq.ParquetFile(tmp_path / "none/out/duplicates.parquet").num_row_groups == 0


def test_the_list_denies_copies_in_their_shards_only(tmp_path):
    shards = random_shards(seed=1)
    report = run(tmp_path, shards)
    assert listed(tmp_path / "out") == plain_copies(shards)
    assert report["pairs"] == sum(report[name] for name in ("no_identity", "repeated_in_shard", "copies", "keys"))
    lists = keys.key_lists(None, [str(tmp_path / "out" / "duplicates.parquet")], tmp_path / "sorted")
    copies = {(shard, key) for shard, key, _ in plain_copies(shards)}
    for name, of_shard in shards.items():
        column = pa.array(sorted(set(filter(None, of_shard))))
        expected = [(name, key) not in copies for key in column.to_pylist()]
        assert keys.is_valid(column, lists, name).tolist() == expected
    assert keys.is_valid(pa.array(["1"]), lists, "another.parquet").tolist() == [True]


def test_broken_shard_fails_alone_and_only_it_and_new_shards_are_read(tmp_path):
    shards = random_shards(seed=3)
    folder = write_pool(tmp_path / "pool", shards)
    whole = (folder / "001.parquet").read_bytes()
    (folder / "001.parquet").write_bytes(whole[:-20])
    with pytest.raises(StageFailed) as failed:
        run(tmp_path, {})
    assert list(failed.value.failures) == ["001.parquet"]
    assert not (tmp_path / "out" / "duplicates.parquet").exists()
    read = killed.modified(tmp_path / "out/pool/pairs")
    (folder / "001.parquet").write_bytes(whole)
    assert run(tmp_path, {}) == run(tmp_path, {})
    new = {"000-earlier.parquet": ["3", "4", "new"]}
    run(tmp_path, new)
    assert read.items() <= killed.modified(tmp_path / "out").items()
    assert listed(tmp_path / "out") == plain_copies(shards | new)


def test_more_keys_than_fit_in_memory_give_the_same_list(tmp_path, monkeypatch):
    """What a killed call spilled is removed first, and nothing is left."""
    shards = {f"{n}.parquet": [f"{(n * 40_000 + i) % 700_000:064}" for i in range(60_000)] for n in range(20)}
    run(tmp_path, {"0.parquet": ["a"]})
    left = tmp_path / "out/.spilled/of a killed call"
    left.parent.mkdir()
    left.touch()
    monkeypatch.setattr(spill, "MEMORY", "100MB")
    run(tmp_path, shards)
    assert listed(tmp_path / "out") == plain_copies(shards)
    assert not left.parent.exists()
