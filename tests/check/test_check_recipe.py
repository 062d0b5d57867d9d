"""The check between download and counting, in a recipe, end to end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import worldclip
from pools import encode, pair, photograph
from toy import ToyWorld, write_tar
from worldclip.check import check
from worldclip.check.removed import why_not_valid
from worldclip.cli import main
from worldclip.contracts.reasons import Reason
from worldclip.core.artifacts import read_json
from worldclip.core.keys import key_lists
from worldclip.pool.config import PoolConfig


@pytest.fixture
def world(toy_world: ToyWorld, tmp_path: Path) -> Path:
    """The toy world with another shard: noise, and copies of the noise, one of which is cut."""
    shutil.copytree(toy_world.folder, tmp_path / "world")
    members = []
    for n in range(6):
        image = encode(photograph(n))
        for copy in range(2):
            members += pair(f"noise{n}{copy}", image if n else image[:60], "a red circle", "x")
    write_tar(tmp_path / "world" / "pool" / "zz.tar", members)
    return tmp_path / "world"


def test_only_valid_keys_are_curated_and_counts_add_up(world: Path, toy_world: ToyWorld, capsys) -> None:
    arguments = ["pool", "check", str(world / "pool"), "--out", str(world / "check"), "--workers", "1", "--json"]
    assert main([*arguments, "--set", "radius=0"]) == 0
    report = json.loads(capsys.readouterr().out)
    counts = report["counts"]
    assert counts["pairs_in"] == counts["valid"] + sum(counts["removed"].values()) == 75 + 12
    assert counts["removed"]["undecodable"] == 2
    assert counts["removed"]["byte_duplicate"] >= 5

    recipe = world / "toy.toml"
    text = recipe.read_text(encoding="utf-8").replace(str(toy_world.folder), str(world))
    valid = world / "check" / "valid_keys.parquet"
    recipe.write_text(re.sub(r"\[pool\]", f'[pool]\nvalid_keys = "{valid}"', text), encoding="utf-8")
    run = worldclip.run(str(recipe), out=world / "run", until="curate")

    keys = set(pq.read_table(valid)["key"].to_pylist())
    curated = pq.read_table(run / "curate" / "zz.tar.parquet", columns=["key"])["key"].to_pylist()
    assert set(curated) <= keys
    assert {key[:6] for key in curated} <= {f"noise{n}" for n in range(1, 6)}
    languages = read_json(run / "curate" / "report.json")["languages"]
    for lang, counts in languages.items():
        assert counts["pairs_in"] == sum(counts[reason.column] for reason in Reason), lang
    assert sum(counts["not_valid"] for counts in languages.values()) > 0
    assert sum(counts["pairs_in"] for counts in languages.values()) == 75 * 4 + 12 * 2
    copy = next(row for row in pq.read_table(valid.with_name("removed.parquet")).to_pylist() if row["other_key"])
    assert main(["inspect", str(run), "--key", copy["key"]]) == 0
    printed = capsys.readouterr().out
    assert "dropped: not among the valid keys, or denied" in printed
    assert f"removed by {copy['rule']} in {copy['shard']} for {copy['other_key']}" in printed


def test_why_not_valid_names_the_list_or_the_rule(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", [*pair("a", encode(photograph(0)), "a"), *pair("b", None, "b")])
    check(PoolConfig(path=str(tmp_path / "pool")), tmp_path / "check")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "gone.parquet")
    lists = key_lists(str(tmp_path / "check" / "valid_keys.parquet"), [str(tmp_path / "gone.parquet")])
    for key, lists_of_key, reason in (
        ("b", lists, f"removed by no_image in 0.tar: {tmp_path}/check/removed.parquet"),
        ("a", lists, f"denied: it is in pool.deny_keys {tmp_path}/gone.parquet"),
        ("c", lists[:1], f"it is not in pool.valid_keys {tmp_path}/check/valid_keys.parquet"),
    ):
        assert why_not_valid(key, lists_of_key, "0.tar") == [reason]
