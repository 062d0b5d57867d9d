"""match, balance and curate against plain Python: decisions, caps, weights of places, online curation."""

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from killed import contents
from matched import read_matched
from plain_recipe import (
    BAD_JSON,
    LISTS,
    keys_of,
    make_recipe,
    make_shards,
    plain_run,
    run_stages,
    write_metadata,
    write_pool,
)
from pools import write_lines, write_table
from stages import run_stage, why_run
from worldclip import curate
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts, coin
from worldclip.core.errors import UserError
from worldclip.curate.accounting import COLUMNS
from worldclip.tools.estimate import estimate
from worldclip.tools.inspect_run import inspect_key

TEXT = "the old green tree on the mountain by the water"
ADVERSARIAL = [
    [],
    [("a", BAD_JSON)],
    [("a", [])],
    [("a", [None, "", " "]), ("b", [None])],
    [("a", ["the cat sat on the mountain by the water", None]), ("a", ["the dog sat on the mountain by the sea"])],
    [("a", BAD_JSON), ("a", ["the old house by the sea in the mountain"]), ("a", [])],
    [("a", ["старая фотография большого красного дома", "照片里的红色房子和山水在一起"])],
    [("a", ["unmatched words everywhere without any listed thing", "รูปแมวใหญ่ในบ้านสีแดงที่ภูเขา"])],
    [("a", ["照片里的红色房子和山水在一起", "unmatched words everywhere without any listed thing"])],
    [("a", ["unmatched words everywhere without any listed thing", "รูปแมวใหญ่ทะเลของ"])],
    [("z", [TEXT])],
]
SHARDS = make_shards(seed=2) | {f"{number}/0.tar": samples for number, samples in enumerate(ADVERSARIAL)}


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


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize(
    ("languages", "match"),
    [
        ({}, {}),
        ({"exclude": ["zh"]}, {"min_lang_prob": 0.7}),
        ({"include": ["en", "th"], "seed": 7}, {"merge_labels": {"ru": "en"}}),
    ],
)
@pytest.mark.parametrize("has_lists", [False, True])
def test_match_balance_curate_agree_with_plain_python(pool_folder, run, tmp_path, policy, languages, match, has_lists):
    pooled, lists = {}, {}
    if has_lists:
        keys = keys_of(SHARDS)
        lists = {"valid": {*keys[: len(keys) * 2 // 3]}, "denied": keys[5:15]}
        paths = [str(write_table(tmp_path / f"{name}.parquet", {"key": [*lists[name]]})) for name in lists]
        pooled = {"valid_keys": paths[0], "deny_keys": paths[1:]}
    recipe = make_recipe(pool_folder, pool=pooled, match=match, curate={"text_policy": policy, **languages})
    expected = plain_run(SHARDS, recipe, **lists)
    reports = run_stages(recipe, run)
    assert ("ru" in reports["match"]["labels_without_language"]) == ("merge_labels" not in match)
    assert {lang: np.load(layout.entry_counts(run, lang)).tolist() for lang in LISTS} == expected.counts
    assert sum(map(sum, expected.counts.values())) > 100, "the pool is no test if little matches"
    thresholds = artifacts.read_json(run / "balance" / "thresholds.json")["lists"]
    assert {name: row["threshold"] for name, row in thresholds.items()} == expected.thresholds
    assert {name: read_kept(run, name) for name in SHARDS} == expected.kept
    check_report(reports["curate"], expected.report)
    total = reports["curate"]["total"]
    assert 0 < total["pairs_out"] < total["pairs_in"]
    assert total["sampled_out"] > 0
    assert (total["not_valid"] > 0) is has_lists
    gone = {key for key in keys_of(SHARDS) if has_lists and (key not in lists["valid"] or key in lists["denied"])}
    check_dropped(run, reports["curate"], gone, recipe.curate.seed)


def check_report(report: dict, expected: dict) -> None:
    """Every column of every language, and that they add up."""
    for lang, row in report["languages"].items():
        assert list(row) == list(COLUMNS)
        assert row["pairs_in"] == sum(row[reason.column] for reason in Reason)
        for column, value in row.items():
            assert value == pytest.approx(expected[lang].get(column, 0), abs=1e-9), (lang, column)
    assert set(report["languages"]) == {lang for lang, row in expected.items() if row["pairs_in"]}


SAMPLED = re.compile(r"coin (\S+) >= (\S+); entries (\d+), least frequent (\d+)")


def check_dropped(run: Path, report: dict, gone: set[str], seed: int = 0) -> None:
    """The rows of dropped/ add up to the report, their details say what was decided, and no excluded key is named."""
    counts = {name: np.load(layout.entry_counts(run, name)) for name in LISTS}
    numbers: Counter = Counter()
    for name in layout.matched_shards(run):
        kept = {(key, text_idx) for key, text_idx, *_ in read_kept(run, name)}
        table = read_matched(run, name)
        matched = {(row["key"], row["text_idx"]): row for row in table.to_pylist()}
        for row in artifacts.read_table(layout.dropped(run, name), schemas.DROPPED).to_pylist():
            numbers[row["lang"], row["reason"]] += 1
            pair, reason, detail = (row["key"], row["text_idx"]), row["reason"], row["detail"]
            assert row["key"] not in gone
            assert row["key"] is not None or gone
            assert reason == "duplicate" or pair not in kept
            if reason == "sampled_out":
                toss, prob, num_entries, least = map(float, SAMPLED.fullmatch(detail).groups())
                assert toss == pytest.approx(coin.uniform(*pair, seed, 0), abs=5e-5)
                assert toss >= prob - 1e-4
                ids = matched[pair]["entry_ids"]
                assert (num_entries, least) == (len(ids), counts[matched[pair]["entries_lang"]][ids].min())
            elif reason in ("no_language", "no_match"):
                assert re.fullmatch(r"\w+ [01](\.\d+)?", detail)
            else:
                assert (detail is not None) == (reason == "bad_pair")
    reasons = [reason.label for reason in Reason if reason != Reason.KEPT]
    rows = report["languages"].items()
    assert numbers == {(lang, reason): row[reason] for lang, row in rows for reason in reasons if row[reason]}


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
    recipe = make_recipe(placed_pool, pool=pooled, curate={"text_policy": policy, "exclude": ["ar"], "seed": seed})
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


def test_online_curation_estimate_and_inspect_apply_caps(pool_folder, world) -> None:
    run, policy, free = world
    report = run_stages(capped(pool_folder, policy, max_pairs=CAPS), run, stages="curate")["curate"]
    kept = {(row["key"], row["text_idx"]): row["keep_prob"] for row in read_all(run)}
    keys, lang_of = keys_of(SHARDS), {}
    for name in SHARDS:
        for row in read_matched(run, name).to_pylist():
            lang_of[row["key"], row["text_idx"]] = row["lang"]
    curator, num_english = curate.Curator(run), []
    for epoch in range(20):
        found = [(keys[i], int(t)) for i, t in zip(*curator.keep(keys, epoch), strict=True)]
        assert epoch or sorted(found) == sorted(kept)
        num_english.append(sum(lang_of[pair] == "en" for pair in found))
    assert len(set(num_english)) > 1
    assert abs(np.mean(num_english) - CAPS["en"]) < 3
    estimates = estimate(run, tail_fraction=[0.05, 1.0])["candidates"]
    for lang, row in estimates[0]["languages"].items():
        assert row["expected_pairs"] == pytest.approx(report["languages"][lang]["expected_pairs"], rel=0.2)
    assert estimates[1]["languages"]["en"]["expected_pairs"] == CAPS["en"]
    for row in free[::5]:
        explained = inspect_key(run, row["key"])
        text = next(text for text in explained["texts"] if text["text_idx"] == row["text_idx"])
        if explained["shard"] == row["shard"]:  # a key of two shards is explained by the one that keeps it
            expected = kept.get((row["key"], row["text_idx"]))
            assert text["reason"] == ("sampled_out" if expected is None else "kept")
            assert expected in (None, text["keep_prob"])


# --- weights of places: pool.text_weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [[0.3, 0.7], [2, 0.001]])
def test_weights_draw_as_plain_python_does_and_redo_curate_alone(placed_pool, run, weights):
    pooled = {"texts": PLACES, "text_weights": weights}
    recipe = make_recipe(placed_pool, pool=pooled, curate={"exclude": ["th"]})
    reports = run_stages(recipe, run)
    expected = plain_run(SHARDS, recipe)
    for name, rows in expected.kept.items():
        assert read_kept(run, name) == rows
        for key, kept_idx, *_ in rows[:1]:
            texts = inspect_key(run, key)["texts"]
            assert [text["text_idx"] for text in texts if text["reason"] == "kept"] == [kept_idx]
            assert {text["place"] for text in texts} <= {*PLACES}
    check_report(reports["curate"], expected.report)
    total = estimate(run, tail_fraction=[0.05])["candidates"][0]["total"]
    assert total["expected_pairs"] == pytest.approx(reports["curate"]["total"]["expected_pairs"])
    unset = make_recipe(placed_pool, pool={"texts": PLACES}, curate={"exclude": ["th"]})
    assert "pool.text_weights was" in why_run("curate", unset, run)
    assert [why_run(stage, unset, run) for stage in ("pool", "match", "balance")] == [None] * 3
    assert expected.kept != plain_run(SHARDS, unset).kept
