"""Drawn pools in every format under drawn recipes give what plain Python gives, or are refused as it expects.

A failure shows the smallest pool and recipe that Hypothesis finds.
"""

import contextlib
import copy
import dataclasses
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matched import read_matched
from plain_pool import FLAT, FORMATS, Place, PlainShard, Refused, Row, Settings, bare, plain_pool, write_places
from plain_recipe import (
    FOREIGN,
    LISTS,
    MERGED_LISTS,
    STATED,
    WORDS,
    Keys,
    Outcome,
    plain_run,
    run_stages,
    write_metadata,
)
from pools import rows_of_tar, write_table
from worldclip import curate, pool
from worldclip.balance.config import BalanceConfig
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.core import artifacts
from worldclip.core.console import LOGGER
from worldclip.core.errors import StageFailed, UserError
from worldclip.curate.accounting import COLUMNS
from worldclip.curate.config import CurateConfig
from worldclip.match.config import MatchConfig
from worldclip.pool.config import PoolConfig

# --- the rows ---------------------------------------------------------------------------------------------------------

LATIN_1 = "caf\udce9"  # written as the byte 0xE9, in JSON as a lone surrogate
SENTENCES = [
    st.lists(st.sampled_from(words), min_size=1, max_size=6).map((" " if lang in ("en", "ar") else "").join)
    for lang, words in WORDS.items()
]
TEXT = st.one_of(
    *SENTENCES,
    SENTENCES[0].map(str.title),
    st.sampled_from(["", "  ", "\u3000", "\0", FOREIGN, "unmatched words", 'a "red" house, cats', LATIN_1]),
)
LABEL = st.sampled_from([*STATED, "", "ru", LATIN_1, None])
KEY = st.sampled_from(["k0", "k1", "k2", "k3", "", LATIN_1, None])
CELLS: dict[str, st.SearchStrategy] = {
    "uid": KEY,
    "other": st.sampled_from([10, 11, 12, None]),
    "text": TEXT | st.none(),
    "texts": st.none() | st.lists(TEXT | st.none(), max_size=3),
    "lang": LABEL,
    "langs": st.none() | st.lists(LABEL, max_size=3),
    "state": st.sampled_from(["good", "bad", "", LATIN_1, None]),
    "width": st.sampled_from([250, 300, 350, None]),
    "score": st.sampled_from([-1.5, 0.0, 0.5, None]),
    "photo": st.sampled_from([b"\x89PNG0", b"\x89PNG1", None]),
    "broken": st.sampled_from([False, False, False, True]),
}
# what only JSON can hold
OF_JSON = CELLS | {
    "uid": KEY | st.sampled_from([7, True, ["k0"]]),
    "text": CELLS["text"] | st.sampled_from([5, ["red house", "big cats"]]),
    "texts": CELLS["texts"] | TEXT | st.just(["red", 5]),
    "langs": CELLS["langs"] | LABEL | st.just(3),
}


# what is mostly kept
CLEAR = st.sampled_from(["the old cats of the green mountain", "big houses by the water", "the dogs and cats"])
GOOD_TEXT = st.one_of(CLEAR, *SENTENCES[1:])
GOOD: dict[str, st.SearchStrategy] = {
    "uid": st.sampled_from(["k0", "k1", "k2", "k3", "k4"]),
    "other": st.sampled_from([10, 11, 12, 13]),
    "text": CLEAR,
    "texts": st.lists(GOOD_TEXT, min_size=1, max_size=3),
    "lang": st.just("en"),
    "langs": st.just(["en"]),
    "state": st.sampled_from(["good", "bad"]),
    "width": st.sampled_from([250, 300, 350]),
    "score": st.sampled_from([0.0, 0.5]),
    "photo": st.just(b"\x89PNG2"),
}
STEM = {"stem": st.sampled_from(["r0", "r1", "r2", "r3"])}


def rows(form: str, min_size: int = 0) -> st.SearchStrategy[list[Row]]:
    cells = CELLS if FORMATS[form].has_columns else OF_JSON
    one = st.one_of(st.fixed_dictionaries(STEM | GOOD), st.fixed_dictionaries(STEM, optional=cells))
    return st.lists(one, min_size=min_size, max_size=5)


# --- the recipe -------------------------------------------------------------------------------------------------------

NUMBER = st.tuples(st.just("width"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.sampled_from([300, 250.0]))
NUMBERS = st.tuples(st.just("json:width"), st.sampled_from(["in", "not in"]), st.sampled_from([[250, 300.0], []]))
STATE = st.tuples(st.just("state"), st.sampled_from(["=", "!=", ">="]), st.sampled_from(["good", "bad"]))
STATES = st.tuples(st.just("state"), st.sampled_from(["in", "not in"]), st.sampled_from([["good", "worse"], []]))
ODD = st.sampled_from([("state", ">", 1), ("nowhere", "=", 1), ("text", "!=", ""), ("width", "in", ["250"])])
# what any shard may be asked, sensible or not
ODD_OPTIONS: dict[str, st.SearchStrategy] = {
    "key": st.sampled_from(["uid", "member", "row", "other", "json:uid", "nowhere"]),
    "texts": st.sampled_from([["text"], ["txt"], ["texts", "nowhere"], [], ["nowhere"]]),
    "lang": st.sampled_from(["lang", "json:langs", "nowhere"]),
    "where": st.lists(st.one_of(NUMBER, STATE, ODD).map(list), max_size=2),
    "image_field": st.sampled_from(["photo", "nowhere"]),
}


def options(form: str) -> st.SearchStrategy[Settings]:
    """Return what a shard of a format can be asked."""
    has_fields = form != "tar of .txt"
    is_tar = FORMATS[form].suffix == ".tar"
    has_lists = has_fields and not FORMATS[form].is_text
    names = ["text", "json:text"] if has_fields else []
    names += ["texts"] if has_lists else []
    names += ["txt"] if "txt" in FORMATS[form].members else []
    keys = ["row"]
    keys += ["member"] if is_tar else []
    keys += ["uid", "other", "json:uid", "uid"] if has_fields else []
    needed = {
        "key": st.sampled_from(keys[::-1]),
        "texts": st.lists(st.sampled_from(names), max_size=2, unique_by=bare),
    }
    more: dict[str, st.SearchStrategy] = {}
    if has_fields:
        more["lang"] = st.sampled_from(["lang", "json:langs"] if has_lists else ["lang"])
        conditions = [STATE, STATES] + ([NUMBER, NUMBERS] if has_lists else [])
        more["where"] = st.lists(st.one_of(conditions).map(list), max_size=2)
    if FORMATS[form].has_columns:
        more["image_field"] = st.just("photo")
    return st.fixed_dictionaries(needed, optional=more)


OF_POOL = {
    "columns": st.just([*FLAT, "photo"]),
    "text_weights": st.sampled_from([[1.0], [3.0, 1.0], [0.001, 2.0]]),
}
LANGS = st.lists(st.sampled_from(["th", "en", "zh", "ar", "th", "en", "zh", "ar", "fr"]), max_size=2, unique=True)
FRACTION = st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])
MERGED = st.sampled_from(["en", "th", "en", "fr"])
MATCH: dict[str, st.SearchStrategy] = {
    "isolate": st.sampled_from(["language", "merged", "english"]),
    "min_lang_prob": st.sampled_from([0.0, 0.3, 0.8]),
    "merge_labels": st.dictionaries(st.sampled_from(["ru", "sv", "xx"]), MERGED, max_size=1),
    "restrict_to_recipe_languages": st.booleans(),
    "fold_case": st.booleans(),
}
THRESHOLD = {"english_threshold": st.sampled_from([1, 2, 3, 20])}
BALANCE = {
    "tail_fractions": st.dictionaries(st.sampled_from([*MERGED_LISTS]), FRACTION, max_size=2),
    "min_threshold": st.integers(0, 3),
}
RULES = [{"tail_fraction": FRACTION}, THRESHOLD, THRESHOLD | {"rule": st.just("same_threshold")}]
CURATE = {
    "text_policy": st.sampled_from(["one", "all"]),
    "seed": st.sampled_from([0, 1, 2**63 - 1]),
    "include": LANGS,
    "exclude": LANGS,
    "max_pairs": st.integers(1, 3) | st.dictionaries(st.sampled_from([*LISTS, "fr"]), st.integers(1, 3), max_size=2),
    "write": st.sampled_from(["list", "tars", "parquet"]),
    "samples_per_tar": st.sampled_from([1, 2, 10]),
    "write_dropped": st.booleans(),
}


@dataclass
class Drawn:
    """A pool, and the sections of its recipe."""

    places: list[Place]
    pool: Settings
    match: Settings
    balance: Settings
    curate: Settings

    @property
    def first_shard(self) -> str:
        return f"a/0{FORMATS[self.places[0].form].suffix}"


@st.composite
def drawn(draw: st.DrawFn) -> Drawn:
    kind = draw(st.sampled_from(["one folder", "a list", "places"]))
    is_odd = draw(st.sampled_from([False, False, False, False, True]))
    forms = draw(st.lists(st.sampled_from([*FORMATS]), min_size=2, max_size=2))
    if kind != "places":
        forms[1] = forms[0]
    places = []
    for name, form in zip("ab", forms, strict=True):
        first = draw(rows(form, 0 if is_odd else 2))
        places.append(Place(name=name, form=form, shards=[first, *draw(st.lists(rows(form), max_size=1))]))
    in_pool = draw(st.fixed_dictionaries({}, optional=OF_POOL))
    in_pool |= draw(options(forms[0]))
    if is_odd:
        in_pool |= draw(st.fixed_dictionaries({}, optional=ODD_OPTIONS))
    in_pool["path"] = ["a", "b"] if kind == "a list" else "."
    if kind == "places":
        del in_pool["path"]
        for place in places:
            place.options = draw(options(place.form))
        in_pool["place"] = [place.options | {"path": place.name} for place in places]
    in_pool |= draw(lists_of_keys(places, in_pool))
    recipe = Drawn(
        places=places,
        pool=in_pool,
        match=draw(st.fixed_dictionaries({}, optional=MATCH)),
        balance=draw(st.one_of([st.fixed_dictionaries(rule, optional=BALANCE) for rule in RULES])),
        curate=draw(st.fixed_dictionaries({}, optional=CURATE)),
    )
    make_consistent(recipe)
    return recipe


def lists_of_keys(places: list[Place], in_pool: Settings) -> st.SearchStrategy[Settings]:
    """Return lists of keys, most of which the pool has."""
    keys = ["k0"]
    with contextlib.suppress(Refused):
        keys += [key for shard in plain_pool(places, in_pool).values() for key in sorted(shard.keys)]
    some = st.lists(st.sampled_from(["unknown", *keys]), max_size=4)
    most = st.permutations(keys).map(lambda items: items[: len(items) * 3 // 4 + 1])
    return st.fixed_dictionaries({}, optional={"valid_keys": most, "deny_keys": st.lists(some, max_size=2)})


def make_consistent(recipe: Drawn) -> None:
    """Take away what a recipe is refused for before anything is read (test_values_that_mean_nothing_are_refused)."""
    sizes = {len(place.options.get("texts", recipe.pool["texts"])) for place in recipe.places}
    if {len(recipe.pool.get("text_weights", []))} != sizes or recipe.curate.get("text_policy") == "all":
        recipe.pool.pop("text_weights", None)
    if {*recipe.curate.get("include", [])} & {*recipe.curate.get("exclude", [])}:
        del recipe.curate["include"]


def test_every_key_is_drawn() -> None:
    """A new key needs a strategy and its plain side; the others have tests of their own, or `drawn` draws them."""
    others = {"path", "place", "build", "parts", "broken_shards", "profile", "write_keys", "valid_keys", "deny_keys"}
    drawn_keys = {**OF_POOL, **ODD_OPTIONS, **MATCH, **BALANCE, **RULES[0], **RULES[2], **CURATE}
    configs = (PoolConfig, MatchConfig, BalanceConfig, CurateConfig)
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    assert names == {*drawn_keys} | others


# --- the comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_drawn_recipe_gives_what_plain_python_gives(num_draws, tmp_path, monkeypatch) -> None:
    for profile in ("unicode", "unicode_fold"):
        write_metadata(tmp_path / "lists", MERGED_LISTS, profile)
    monkeypatch.setattr(LOGGER, "disabled", True)  # lines of all draws would hide the one that fails

    @settings(max_examples=num_draws, deadline=None, report_multiple_bugs=False, suppress_health_check=[*HealthCheck])
    @given(drawn())
    def compare(case: Drawn) -> None:
        folder = tmp_path / "case"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "metadata").symlink_to(tmp_path / "lists" / "metadata")
        write_places(folder / "pool", case.places, is_bare="columns" in case.pool)
        check(case, folder)

    compare()


def write_lists(case: Drawn, folder: Path) -> tuple[Settings, list[Keys], list[Keys]]:
    """Write the lists of keys, of two deny lists the second with shards; return what names them, and their keys."""
    named: Settings = {}
    valid: list[Keys] = []
    denied: list[Keys] = []
    if "valid_keys" in case.pool:
        valid.append({(key, None) for key in case.pool["valid_keys"]})
        named["valid_keys"] = str(folder / "valid.txt")
        (folder / "valid.txt").write_text("\n".join(case.pool["valid_keys"]))
    for number, keys in enumerate(case.pool.get("deny_keys", [])):
        shard = case.first_shard if number else None
        columns = {"key": pa.array(keys, pa.string())}
        if number:
            columns["shard"] = pa.array([shard] * len(keys), pa.string())
        write_table(folder / f"denied{number}.parquet", columns)
        denied.append({(key, shard) for key in keys})
    named["deny_keys"] = [str(folder / f"denied{number}.parquet") for number in range(len(denied))]
    return named, valid, denied


def recipe_of(case: Drawn, folder: Path, lists: Settings) -> Recipe:
    in_pool = case.pool | lists
    if "place" in in_pool:
        in_pool["place"] = [place | {"path": str(folder / place["path"])} for place in in_pool["place"]]
    elif in_pool["path"] == ".":
        in_pool["path"] = str(folder)
    else:
        in_pool["path"] = [str(folder / name) for name in in_pool["path"]]
    sections = {"match": case.match, "balance": case.balance, "curate": case.curate, "languages": {"codes": [*LISTS]}}
    return load_recipe({"pool": in_pool, **sections})


def check(case: Drawn, folder: Path) -> None:
    named, valid, denied = write_lists(case, folder)
    recipe = recipe_of(case, folder / "pool", named)
    run = folder / "run"
    try:
        shards = plain_pool(case.places, case.pool)
    except Refused as refusal:
        check_refusal(refusal, recipe, run)
        return
    before = copy.deepcopy(shards)  # reasons as the stage pool gives them
    expected = plain_run(shards, recipe, valid, denied)
    for stage, check_stage in CHECKS.items():
        if expected.refusal is not None and expected.refusal.stage == stage:
            check_refusal(expected.refusal, recipe, run)
            return
        report = run_stages(recipe, run, stages=stage)[stage]
        check_stage(run, recipe, before, expected, report)


def check_refusal(refusal: Refused, recipe: Recipe, run: Path) -> None:
    with pytest.raises((UserError, StageFailed)) as raised:
        run_stages(recipe, run, stages=refusal.stage)
    error = raised.value
    problems = error.problems if isinstance(error, UserError) else [*error.failures.values()]
    said = "\n".join(problems)
    assert [problem for problem in refusal.problems if problem not in said] == [], said


def check_pool(run: Path, recipe: Recipe, shards: dict[str, PlainShard], expected: Outcome, report: Any) -> None:
    found = pool.list_shards(recipe.pool)
    assert [shard.name for shard in found] == list(shards)
    assert report["left_out"] == sum(shard.num_left_out for shard in shards.values())
    for shard in found:
        texts = pool.read_pairs(run, shard.name, pool.EVERY_KEY)
        langs = [None] * len(texts.key) if texts.lang is None else texts.lang.to_pylist()
        reasons = [Reason(code).label for code in texts.reason]
        columns = (texts.key, texts.text_idx, texts.place, texts.text)
        rows = [tuple(map(plain_value, row)) for row in zip(*columns, langs, reasons, strict=True)]
        plain = [text for sample in shards[shard.name].samples for text in sample]
        assert rows == [(text.key, text.idx, text.place, text.text, text.label, text.reason) for text in plain]
        images = pool.read_images(run, shard.name, pool.EVERY_KEY)
        contents = pool.read_contents(pool.image_places(shard, images))
        of_images = zip(images["key"].to_pylist(), images["row"].to_pylist(), contents, strict=True)
        assert list(of_images) == shards[shard.name].images


def plain_value(value: Any) -> Any:
    return value.as_py() if isinstance(value, pa.Scalar) else value


def check_match(run: Path, recipe: Recipe, shards: dict[str, PlainShard], expected: Outcome, report: Any) -> None:
    for name, rows in expected.matched.items():
        columns = ("key", "text_idx", "lang", "text", "entry_ids")
        assert rows_of(read_matched(run, name), columns) == rows


def rows_of(table: pa.Table, columns: Sequence[str]) -> list[tuple]:
    return [tuple(row[column] for column in columns) for row in table.to_pylist()]


def check_balance(run: Path, recipe: Recipe, shards: dict[str, PlainShard], expected: Outcome, report: Any) -> None:
    assert {name: np.load(layout.entry_counts(run, name)).tolist() for name in expected.counts} == expected.counts
    lists = artifacts.read_json(layout.thresholds(run))["lists"]
    assert {name: row["threshold"] for name, row in lists.items()} == expected.thresholds


SAMPLED = re.compile(r"coin (\S+) >= (\S+); entries (\d+), least frequent (\d+)")


def check_curate(run: Path, recipe: Recipe, shards: dict[str, PlainShard], expected: Outcome, report: Any) -> None:
    columns = ("key", "text_idx", "text", "lang", "keep_prob")
    assert {name: rows_of(curate.read_curated(run, name), columns) for name in expected.kept} == expected.kept
    assert set(report["languages"]) == {lang for lang, row in expected.report.items() if row["pairs_in"]}
    for lang, row in report["languages"].items():
        assert row == {column: pytest.approx(expected.report[lang][column], abs=1e-9) for column in COLUMNS}
    assert {lang: row["factor"] for lang, row in report["caps"].items()} == pytest.approx(expected.caps)
    if recipe.curate.write_dropped:
        for name, rows in expected.dropped.items():
            check_dropped(run, name, rows)
    if recipe.curate.write == "tars":
        check_tars(run, shards, expected.kept)


def check_dropped(run: Path, shard: str, expected: list[tuple]) -> None:
    """Compare key, position, language and reason of each pair, and the numbers that sampled it out."""
    table = artifacts.read_table(layout.dropped(run, shard), schemas.DROPPED)
    rows = rows_of(table, ("key", "text_idx", "lang", "reason", "detail"))
    rows.sort(key=lambda row: str(row[:4]))
    expected = sorted(expected, key=lambda row: str(row[:4]))
    assert [row[:4] for row in rows] == [row[:4] for row in expected]
    for (*_, reason, detail), (*_, numbers) in zip(rows, expected, strict=True):
        assert (detail is not None) == (reason in ("bad_pair", "no_language", "no_match", "sampled_out"))
        if reason == "sampled_out":
            found = [float(number) for number in SAMPLED.fullmatch(detail).groups()]
            assert found == pytest.approx(numbers, abs=6e-5)


def check_tars(run: Path, shards: dict[str, PlainShard], kept: dict[str, list[tuple]]) -> None:
    """Check that the tars hold the kept texts that have an image, with that image."""
    samples: list[tuple] = []
    for name, shard in shards.items():
        image_of = {key: image for key, _, image in shard.images}
        texts_of: dict[str, list[str]] = {}
        for key, _, text, *_ in kept[name]:
            texts_of.setdefault(key, []).append(text)
        samples += [(key, texts, image_of[key]) for key, texts in texts_of.items() if key in image_of]
    written = [row for path in sorted((run / "curate/tars").glob("*.tar")) for row in rows_of_tar(path)]
    assert [(row["key"], row["texts"], row["image"]) for row in written] == samples


CHECKS = {"pool": check_pool, "match": check_match, "balance": check_balance, "curate": check_curate}
