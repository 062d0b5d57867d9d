"""Caps, weights of places, online curation, and what is refused; decisions: tests/test_drawn_recipes.py."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from killed import contents
from plain_recipe import (
    LISTS,
    keys_of,
    make_recipe,
    make_shards,
    run_stages,
    write_metadata,
    write_pool,
)
from pools import write_lines
from stages import run_stage, why_run
from worldclip import curate
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, coin
from worldclip.core.errors import UserError
from worldclip.curate.stage import sampled_curve
from worldclip.tools.estimate import estimate

SHARDS = make_shards(seed=2)


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, SHARDS)
    return folder


PLACES = ["json:alt", "json:caption"]


@pytest.fixture(scope="module")
def placed_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pool with texts in two fields."""
    folder = tmp_path_factory.mktemp("placed")
    write_pool(folder, SHARDS, by_place=True)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder for a run; tests with another pool have it in TMP/pool."""
    return tmp_path / "run"


def read_kept(run: Path, name: str) -> list[tuple]:
    table = curate.read_curated(run, name)
    columns = ("key", "text_idx", "text", "lang", "keep_prob")
    return list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))


def test_the_list_of_why_is_left_out_and_written_anew_by_curate_alone(pool_folder, run):
    recipe, without = (make_recipe(pool_folder, curate={"write_dropped": value}) for value in (True, False))
    run_stages(recipe, run)
    before, kept = contents(run / "curate/dropped"), contents(run / "curate", ["manifest.json", "DATA_CARD.md"])
    digest = artifacts.require_manifest(run, "curate")["list"]
    assert "curate.write_dropped was True, is False" in why_run("curate", without, run)
    assert [why_run(stage, without, run) for stage in ("pool", "match", "balance")] == [None] * 3
    run_stages(without, run, stages="curate")
    assert not (run / "curate/dropped").exists()
    assert artifacts.require_manifest(run, "curate")["list"] == digest, "training goes on"
    run_stages(recipe, run, stages="curate")
    assert contents(run / "curate/dropped") == before != {}
    assert contents(run / "curate", ["manifest.json", "DATA_CARD.md"]) == kept
    (run / "match/dropped").rename(run / "match/gone")
    with pytest.raises(UserError, match=r"is of an older worldclip; run: .* --from match"):
        run_stages(recipe, run, stages="curate")


def test_languages_that_the_run_lacks_and_an_empty_choice_are_refused_before_anything_is_removed(pool_folder, run):
    run_stages(make_recipe(pool_folder), run)
    before = contents(run / "curate")
    with pytest.raises(UserError, match=r"curate\.exclude: no language of this run remains \(.*en.*\)"):
        run_stage("curate", make_recipe(pool_folder, curate={"exclude": list(LISTS)}), run)
    assert contents(run / "curate") == before
    unknown = {"include": ["en", "fr"], "exclude": ["xx"], "max_pairs": {"fr": 3}}
    with pytest.raises(UserError) as raised:
        run_stages(make_recipe(pool_folder, curate=unknown), run, stages="curate")
    expected = ["curate.include: 'fr'", "curate.exclude: 'xx'", "curate.max_pairs: 'fr'"]
    assert [problem.split(" is not a language of this run")[0] for problem in raised.value.problems] == expected


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"curate": {"seed": -1}}, r"curate\.seed = -1: must be between 0 and"),
        ({"curate": {"include": ["en", "zh"], "exclude": ["zh"]}}, r"zh is in curate\.exclude, too"),
        ({"pool": {"texts": ["txt"], "text_weights": [1, 1]}}, r"pool\.text_weights: must hold one"),
        ({"pool": {"texts": ["txt"], "text_weights": [0]}}, r"pool\.text_weights: must be numbers above 0"),
        ({"pool": {"texts": ["txt"], "text_weights": [1]}, "curate": {"text_policy": "all"}}, '= "all" draws none'),
    ],
)
def test_values_that_mean_nothing_are_refused(section, problem):
    with pytest.raises(UserError, match=problem):
        make_recipe(Path("p"), **section)


# --- online -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "seed", "weights"), [("one", 0, []), ("all", 0, []), ("one", 7, [0.3, 0.7])])
def test_the_curator_keeps_the_offline_list_in_epoch_0_and_draws_anew_later(placed_pool, run, policy, seed, weights):
    pooled = {"texts": PLACES, "text_weights": weights}
    curating = {"text_policy": policy, "exclude": ["ar"], "seed": seed, "max_pairs": {"en": 9}}
    recipe = make_recipe(placed_pool, pool=pooled, curate=curating)
    run_stages(recipe, run)
    curator = curate.Curator(run)
    asked = [*keys_of(SHARDS), "unknown", ""]
    random.Random(0).shuffle(asked)
    offline = sorted((row[0], row[1]) for name in SHARDS for row in read_kept(run, name))
    key_idx, text_idx = curator.keep(asked)
    assert key_idx.dtype == np.int64
    assert text_idx.dtype == np.int32
    assert sorted((asked[i], int(t)) for i, t in zip(key_idx, text_idx, strict=True)) == offline
    assert list(zip(key_idx, text_idx, strict=True)) == sorted(zip(key_idx, text_idx, strict=True))
    if policy == "one":
        assert len(set(key_idx)) == len(key_idx)
    later = curator.keep(asked, epoch=1)
    assert [part.tolist() for part in later] != [key_idx.tolist(), text_idx.tolist()]
    assert [part.tolist() for part in curator.keep(pa.array(asked), epoch=1)] == [part.tolist() for part in later]
    with pytest.raises(TypeError, match="many keys, got one"):
        curator.keep(asked[0])


@pytest.mark.parametrize("seed", [0, 3])
def test_a_seed_of_the_curator_goes_before_that_of_the_recipe(pool_folder, tmp_path, seed):
    kept = {}
    for of_recipe in (7, seed):
        run_dir = tmp_path / str(of_recipe)
        run_stages(make_recipe(pool_folder, curate={"seed": of_recipe}), run_dir)
        found = curate.Curator(run_dir, seed=seed).keep(keys_of(SHARDS), epoch=0)
        kept[of_recipe] = [part.tolist() for part in found]
    own = [part.tolist() for part in curate.Curator(tmp_path / "7").keep(keys_of(SHARDS), epoch=0)]
    assert kept[7] == kept[seed] != own


# --- caps -------------------------------------------------------------------------------------------------------------


CAPS = {"en": 9, "zh": 4, "th": 1000}


@pytest.fixture(scope="module", params=["one", "all"])
def world(request, pool_folder, tmp_path_factory) -> tuple[Path, str, list[dict]]:
    """(run after curate, policy, what is kept without a cap)."""
    run = tmp_path_factory.mktemp("run")
    run_stages(capped(pool_folder, request.param), run)
    return run, request.param, read_all(run)


def capped(folder: Path, policy: str, **caps: object):
    return make_recipe(folder, curate={"text_policy": policy, "exclude": ["ar"], **caps})


def read_all(run: Path) -> list[dict]:
    return [{"shard": name, **row} for name in sorted(SHARDS) for row in curate.read_curated(run, name).to_pylist()]


@pytest.mark.parametrize("max_pairs", [CAPS, 6])
def test_a_cap_multiplies_all_probabilities_of_a_language(pool_folder, world, max_pairs) -> None:
    run, policy, free = world
    unbound = run_stages(capped(pool_folder, policy), run, stages="curate")["curate"]
    assert unbound["caps"] == {}
    assert read_all(run) == free
    assert not (run / "curate" / ".work" / "caps").exists(), "of a cap that was removed"
    report = run_stages(capped(pool_folder, policy, max_pairs=max_pairs), run, stages="curate")["curate"]
    caps = max_pairs if isinstance(max_pairs, dict) else dict.fromkeys(unbound["languages"], max_pairs)
    expected = {lang: row["expected_pairs"] for lang, row in unbound["languages"].items()}
    factors = {lang: min(1.0, caps[lang] / expected[lang]) for lang in caps if expected[lang]}
    over = {lang: factor for lang, factor in factors.items() if factor < 1}
    assert {lang: row["factor"] for lang, row in report["caps"].items()} == over
    thinned = [{**row, "keep_prob": row["keep_prob"] * factors.get(row["lang"], 1.0)} for row in free]
    assert read_all(run) == [
        row for row in thinned if coin.uniform(row["key"], row["text_idx"], 0, 0) < row["keep_prob"]
    ]
    for lang, row in report["languages"].items():
        assert row["excluded"] == unbound["languages"][lang]["excluded"]
        assert row["pairs_in"] == sum(row[reason.column] for reason in Reason)
        assert row["expected_pairs"] == pytest.approx(min(caps.get(lang, 10**9), expected[lang]), rel=0.2)


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_cap_is_about_texts_of_its_own_language_under_one_list_for_all(tmp_path, policy) -> None:
    """800 images in two languages that are matched against one list: each language keeps about its cap."""
    rows = [{"uid": f"k{n:04}", "texts": ["red cat house", "red house"], "lang": ["en", "zh"]} for n in range(1600)]
    write_lines(tmp_path / "pool/0.jsonl", rows)
    write_metadata(
        tmp_path / "run",
        {"en": ["red"], "zh": ["red"], "th": ["red"], "ar": ["red"], "merged": ["red", "cat", "house"]},
    )
    pooled = {"key": "uid", "texts": ["texts"], "lang": "lang"}
    curating = {"text_policy": policy, "max_pairs": {"en": 500}}
    recipe = make_recipe(
        tmp_path / "pool", pool=pooled, match={"isolate": "merged"}, curate=curating, balance={"tail_fraction": 1.0}
    )
    report = run_stages(recipe, tmp_path / "run")["curate"]
    assert 430 <= report["languages"]["en"]["pairs_out"] <= 570
    assert report["languages"]["zh"]["pairs_out"] > 570


# --- weights of places: pool.text_weights -----------------------------------------------------------------------------


def test_a_key_without_a_drawable_text_counts_in_the_language_of_its_first(tmp_path, run):
    texts = {"th": "บ้าน แมว หมา ใหญ่ ทะเล", "zh": "照片房子猫狗大山树", "en": "the red green house"}
    lines = []
    for number, langs in enumerate((["th", "zh"], ["th", "zh"], ["zh", "zh"], ["en"])):
        lines.append({"uid": str(number), "texts": [texts[lang] for lang in langs], "lang": langs})
    write_lines(tmp_path / "pool/0.jsonl", lines)
    pool = {"key": "uid", "texts": ["texts"], "lang": "lang"}
    curating = {"text_policy": "one", "exclude": ["th", "zh"]}
    recipe = make_recipe(tmp_path / "pool", pool=pool, curate=curating, balance={"tail_fraction": 1.0})
    report = run_stages(recipe, run)["curate"]
    assert {lang: row["excluded"] for lang, row in report["languages"].items()} == {"en": 0, "th": 2, "zh": 1}


def test_a_curve_follows_the_same_entries_before_and_after():
    curve = sampled_curve(np.array([3, 0, 5, 1], np.uint64), np.array([3, 0, 1, 0], np.uint64))
    assert (curve["rank"], curve["matches"], curve["kept"]) == ([1, 2, 3], [5, 3, 1], [1, 3, 0])


def test_other_weights_redo_curate_alone(placed_pool, run):
    recipe = make_recipe(placed_pool, pool={"texts": PLACES, "text_weights": [0.3, 0.7]}, curate={"exclude": ["th"]})
    reports = run_stages(recipe, run)
    total = estimate(run, tail_fraction=[0.05])["candidates"][0]["total"]
    assert total["expected_pairs"] == pytest.approx(reports["curate"]["total"]["expected_pairs"])
    unset = make_recipe(placed_pool, pool={"texts": PLACES}, curate={"exclude": ["th"]})
    assert "pool.text_weights was" in why_run("curate", unset, run)
    assert [why_run(stage, unset, run) for stage in ("pool", "match", "balance")] == [None] * 3
