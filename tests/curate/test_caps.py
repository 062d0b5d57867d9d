"""curate.max_pairs: at most so many pairs of a language, the same ones for any number of workers, and counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from killed import contents
from plain_recipe import LISTS, keys_of, make_recipe, make_shards, run_stages, write_pool
from worldclip import curate
from worldclip.contracts import schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, coin
from worldclip.core.errors import UserError
from worldclip.core.execute import FileGroups, LocalExecutor, equal_starts
from worldclip.curate import caps
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


def plain_capped(rows: list[dict], cap_of) -> list[dict]:
    """Of each language the rows with the smallest coin over probability."""
    ordered = sorted(rows, key=lambda row: coin.uniform(row["key"], row["text_idx"], 0, 0) / row["keep_prob"])
    kept = []
    for lang in {row["lang"] for row in rows}:
        kept += [row for row in ordered if row["lang"] == lang][: cap_of(lang)]
    return [row for row in rows if row in kept]


@pytest.mark.parametrize("max_pairs", [CAPS, 6])
def test_a_cap_keeps_the_smallest_of_each_language_and_counts_the_others(world, max_pairs) -> None:
    folder, run, policy, free = world
    report = run_stages(recipe_of(folder, policy, max_pairs), run, stages="curate")["curate"]
    cap_of = max_pairs.get if isinstance(max_pairs, dict) else lambda lang: max_pairs
    expected = plain_capped(free, cap_of)
    assert read_all(run) == expected
    was, stays = (Counter(row["lang"] for row in rows) for rows in (free, expected))
    assert any(was[lang] > stays[lang] for lang in was)
    unbound = run_stages(recipe_of(folder, policy), run, stages="curate")["curate"]["languages"]
    for lang, row in report["languages"].items():
        over = was[lang] - stays[lang]
        assert row["excluded"] == unbound[lang]["excluded"] + over
        assert row["sampled_out"] == unbound[lang]["sampled_out"]
        assert row["pairs_in"] == sum(row[reason.column] for reason in Reason)
        cap = cap_of(lang)
        assert row["expected_pairs"] == min(cap or 10**9, unbound[lang]["expected_pairs"])
    assert set(report["caps"]) == {lang for lang in was if was[lang] > stays[lang]}


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
    run_stages(recipe_of(folder, policy), run, stages="curate")
    free = curate.Curator(run)
    report = run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")["curate"]
    capped = curate.Curator(run)
    keys = keys_of(SHARDS)
    probs = {name: np.load(run / "balance" / f"{name}.npy") for name in LISTS}
    tables = [artifacts.read_table(path, schemas.MATCH_TEXTS) for path in (run / "match/texts").rglob("*.parquet")]
    matched = {(row["key"], row["text_idx"]): row for table in tables for row in table.to_pylist()}

    def stays(key: str, text_idx: int, epoch: int) -> bool:
        row = matched[key, text_idx]
        prob = curate.keep_prob(row["entry_ids"], [0, len(row["entry_ids"])], probs[row["lang"]])[0]
        bound = report["caps"].get(row["lang"], {"bound": np.inf})["bound"]
        return coin.uniform(key, text_idx, 0, epoch) / prob < bound

    found = {}
    for epoch in range(4):
        of_free = [(keys[i], int(t)) for i, t in zip(*free.keep(keys, epoch), strict=True)]
        halves = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
        found[epoch] = [(half[i], int(t)) for half in halves for i, t in zip(*capped.keep(half, epoch), strict=True)]
        assert found[epoch] == [pair for pair in of_free if stays(*pair, epoch)]
        assert 0 < len(found[epoch]) < len(of_free)
    assert found[0] == [(row["key"], row["text_idx"]) for row in read_all(run)]
    assert found[1] != found[2]


def test_an_estimate_expects_no_more_than_the_cap(world) -> None:
    folder, run, policy, _ = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    report = artifacts.read_json(run / "curate" / "report.json")
    found = estimate(run, tail_fraction=[0.05, 1.0])["candidates"]
    for lang, row in found[0]["languages"].items():
        assert row["expected_pairs"] == pytest.approx(report["languages"][lang]["expected_pairs"])
    assert found[1]["languages"]["en"]["expected_pairs"] == CAPS["en"]
    assert found[1]["total"]["expected_pairs"] == sum(row["expected_pairs"] for row in found[1]["languages"].values())


def test_inspect_names_the_cap_that_excludes_a_pair(world) -> None:
    folder, run, policy, free = world
    run_stages(recipe_of(folder, policy, CAPS), run, stages="curate")
    capped = read_all(run)
    over = next(row for row in free if row not in capped)
    texts = {row["text_idx"]: row for row in inspect_key(run, over["key"])["texts"]}
    assert texts[over["text_idx"]]["reason"] == "excluded"
    assert texts[over["text_idx"]]["cap"] == CAPS[over["lang"]]
    texts = {row["text_idx"]: row for row in inspect_key(run, capped[0]["key"])["texts"]}
    assert texts[capped[0]["text_idx"]]["reason"] == "kept"


def write_ratios(folder: Path, ratios: dict[str, np.ndarray], num_shards: int) -> FileGroups:
    """Deal ratios of languages to files; return groups of two of them."""
    for i in range(num_shards):
        parts = {lang: values[i::num_shards] for lang, values in ratios.items()}
        langs = np.repeat(list(parts), [len(part) for part in parts.values()])
        table = pa.table({"lang": langs, "number": np.concatenate([*parts.values(), np.empty(0)])})
        artifacts.write_table(folder / f"{i}.tar.parquet", table, schemas.CAP_NUMBERS)
    return FileGroups(folder, [f"{i}.tar" for i in range(num_shards)], ".parquet", equal_starts(num_shards, 2))


SHAPES = {
    "uniform": lambda n: np.random.default_rng(n).random(n),
    "low": lambda n: np.random.default_rng(n).random(n) ** 4,  # the first window misses
    "equal": lambda n: np.full(n, 0.25),
    "few values": lambda n: np.arange(n) % 3 / 4,
}


@pytest.mark.parametrize("number", [1, 2, 3000])
def test_windows_hold_the_first_ratio_over_the_cap_or_are_widened(tmp_path, number) -> None:
    ratios = {name: shape(number) for name, shape in SHAPES.items()}
    groups = write_ratios(tmp_path / "caps", ratios, 5)
    missed = Counter()
    for cap in {1, 2, number // 3, number - 1} & set(range(1, number)):
        caps_of = dict.fromkeys(ratios, cap)
        found, width = {}, caps.FIRST_WIDTH
        while len(found) < len(ratios):
            windows = {lang: caps.window_of(cap, number, width) for lang in ratios if lang not in found}
            found |= caps._bounds_in(windows, caps_of, groups, tmp_path / "windows", LocalExecutor(quiet=True))
            missed.update(windows.keys() - found.keys())
            width *= caps.WIDER
        assert found == {lang: np.sort(values)[cap] for lang, values in ratios.items()}
        assert all((values < found[lang]).sum() <= cap for lang, values in ratios.items())
    assert missed["uniform"] == 0
    assert number < 3 or missed["low"] > 0


def test_windows_are_narrow() -> None:
    """Of a billion ratios the driver reads some hundred thousand."""
    low, high = caps.window_of(300_000_000, 10**9, caps.FIRST_WIDTH)
    assert (high - low) * 10**9 < 300_000


def test_all_caps_are_found_in_one_map_over_the_ratios(world) -> None:
    folder, run, policy, _ = world
    labels = []

    class Noting(LocalExecutor):
        def map(self, fn, shards, *, label, **options):
            labels.append(label)
            return super().map(fn, shards, label=label, **options)

    report = run_stages(recipe_of(folder, policy, 3), run, Noting(quiet=True), stages="curate")["curate"]
    assert len(report["caps"]) > 1
    assert labels.count("bounds") == 1
    assert not (run / "curate" / ".work" / "caps" / ".windows").exists()


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
