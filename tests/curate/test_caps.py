"""curate.max_pairs: one factor thins a language to about so many pairs, offline and online."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from killed import contents
from plain_recipe import keys_of, make_recipe, make_shards, run_stages, write_pool
from worldclip import curate
from worldclip.contracts import schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, coin
from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor
from worldclip.tools.estimate import estimate
from worldclip.tools.inspect_run import inspect_key

SHARDS = make_shards(seed=11)
CAPS = {"en": 9, "zh": 4, "th": 1000}


@pytest.fixture(scope="module", params=["one", "all"])
def world(request, tmp_path_factory) -> tuple[Path, Path, str, list[dict]]:
    """(pool, run after balance, policy, what is kept without a cap)."""
    folder, run = tmp_path_factory.mktemp("pool"), tmp_path_factory.mktemp("run")
    write_pool(folder, SHARDS)
    run_stages(recipe_of(folder, request.param), run)
    return folder, run, request.param, read_all(run)


def recipe_of(folder: Path, policy: str, max_pairs=None):
    capped = {} if max_pairs is None else {"max_pairs": max_pairs}
    return make_recipe(folder, curate={"text_policy": policy, "exclude": ["ar"], **capped})


def read_all(run: Path) -> list[dict]:
    return [{"shard": name, **row} for name in sorted(SHARDS) for row in curate.read_curated(run, name).to_pylist()]


@pytest.mark.parametrize("max_pairs", [CAPS, 6])
def test_a_cap_multiplies_all_probabilities_of_a_language(world, max_pairs) -> None:
    folder, run, policy, free = world
    unbound = run_stages(recipe_of(folder, policy), run, stages="curate")["curate"]["languages"]
    report = run_stages(recipe_of(folder, policy, max_pairs), run, stages="curate")["curate"]
    caps = max_pairs if isinstance(max_pairs, dict) else dict.fromkeys(unbound, max_pairs)
    expected = {lang: row["expected_pairs"] for lang, row in unbound.items()}
    factors = {lang: min(1.0, caps[lang] / expected[lang]) for lang in caps if expected[lang]}
    over = {lang: factor for lang, factor in factors.items() if factor < 1}
    assert {lang: row["factor"] for lang, row in report["caps"].items()} == over
    thinned = [{**row, "keep_prob": row["keep_prob"] * factors.get(row["lang"], 1.0)} for row in free]
    assert read_all(run) == [
        row for row in thinned if coin.uniform(row["key"], row["text_idx"], 0, 0) < row["keep_prob"]
    ]
    for lang, row in report["languages"].items():
        assert row["excluded"] == unbound[lang]["excluded"]
        assert row["pairs_in"] == sum(row[reason.column] for reason in Reason)
        assert row["expected_pairs"] == pytest.approx(min(caps.get(lang, 10**9), expected[lang]), rel=0.2)


def test_neither_workers_nor_a_kill_change_what_a_cap_keeps(world) -> None:
    folder, run, policy, _ = world
    recipe = recipe_of(folder, policy, CAPS)
    run_stages(recipe, run, stages="curate")
    once = contents(run / "curate")
    for marker in sorted((run / "curate").rglob("done/**/*.json"))[::2]:
        marker.unlink()
    run_stages(recipe, run, LocalExecutor(workers=2, quiet=True), stages="curate")
    assert contents(run / "curate") == once


def test_removing_a_cap_removes_its_files(world) -> None:
    folder, run, policy, free = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    report = run_stages(recipe_of(folder, policy), run, stages="curate")["curate"]
    assert report["caps"] == {}
    assert read_all(run) == free
    assert not (run / "curate" / ".work" / "caps").exists()


def test_online_curation_applies_caps(world) -> None:
    folder, run, policy, _ = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    capped = curate.Curator(run)
    keys = keys_of(SHARDS)
    found = {}
    for epoch in range(20):
        halves = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
        found[epoch] = [(half[i], int(t)) for half in halves for i, t in zip(*capped.keep(half, epoch), strict=True)]
    assert found[0] == [(row["key"], row["text_idx"]) for row in read_all(run)]
    assert found[1] != found[2]
    tables = [artifacts.read_table(path, schemas.MATCH_TEXTS) for path in (run / "match/texts").rglob("*.parquet")]
    lang_of = {(row["key"], row["text_idx"]): row["lang"] for table in tables for row in table.to_pylist()}
    num_english = np.mean([sum(lang_of[pair] == "en" for pair in pairs) for pairs in found.values()])
    assert abs(num_english - CAPS["en"]) < 3


def test_an_estimate_expects_no_more_than_the_cap(world) -> None:
    folder, run, policy, _ = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    report = artifacts.read_json(run / "curate" / "report.json")
    found = estimate(run, tail_fraction=[0.05, 1.0])["candidates"]
    for lang, row in found[0]["languages"].items():
        assert row["expected_pairs"] == pytest.approx(report["languages"][lang]["expected_pairs"], rel=0.2)
    assert found[1]["languages"]["en"]["expected_pairs"] == CAPS["en"]
    assert found[1]["total"]["expected_pairs"] == sum(row["expected_pairs"] for row in found[1]["languages"].values())


def test_inspect_decides_with_the_factor(world) -> None:
    folder, run, policy, free = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    capped = {(row["key"], row["text_idx"]): row["keep_prob"] for row in read_all(run)}
    for row in free:
        explained = inspect_key(run, row["key"])
        if explained["shard"] != row["shard"]:  # a key of two shards is explained by the one that keeps it
            continue
        text = next(text for text in explained["texts"] if text["text_idx"] == row["text_idx"])
        if (row["key"], row["text_idx"]) in capped:
            assert (text["reason"], text["keep_prob"]) == ("kept", capped[row["key"], row["text_idx"]])
        else:
            assert text["reason"] == "sampled_out"


@pytest.mark.parametrize(
    ("max_pairs", "problem"),
    [
        (0, r"curate\.max_pairs = 0: must be at least 1"),
        ({"en": -1}, r"curate\.max_pairs\.en = -1: must be at least 1"),
        ({"en": "x"}, r"curate\.max_pairs: must be a whole number or a table"),
    ],
)
def test_a_cap_is_at_least_one_pair(tmp_path, max_pairs, problem) -> None:
    with pytest.raises(UserError, match=problem):
        recipe_of(tmp_path, "one", max_pairs)
