"""One set of rows, written in every format and read under every key of [pool], alone and in pairs, gives what plain
Python over dicts gives: the same pairs, images, matches, counts and curated list, or the same refusal.
"""

import csv
import dataclasses
import functools
import gzip
import itertools
import json
import operator
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from killed import contents
from matched import read_matched
from plain_recipe import LISTS, Fates, plain_fate, plain_lang, plain_outcome, run_stages
from pools import rows_of, rows_of_tar, write_table
from stages import QUIET, context, run_stage
from tars import as_json, write_tar
from worldclip import curate, pool
from worldclip.config import Recipe, load_recipe
from worldclip.contracts import layout
from worldclip.core.errors import StageFailed, UserError
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.base import WrongColumns
from worldclip.pool.stage import index_shard, key_lists, refuse_wrong_columns

Row = dict[str, Any]
Settings = dict[str, Any]

# --- the rows ---------------------------------------------------------------------------------------------------------

# stem of the sample in a tar, and fields.  A field that a row lacks is absent from JSON, null in Parquet, empty in CSV.
# "photo" is the image.
RED, CATS, THAI, ZHONG = "the red green house", "cats dog of water", "บ้าน แมว หมา ใหญ่ ทะเล", "照片房子猫狗大山树"
SHARDS: dict[str, list[Row]] = {
    "a/0": [
        {"stem": "r0", "uid": "k0", "other": 10, "text": RED, "texts": [CATS, None, THAI], "lang": "en"}
        | {"langs": ["en", "en", "th"], "state": "good", "width": 300, "score": 0.5, "photo": b"\x89PNG0"},
        {"stem": "r1", "uid": "k1", "other": 11, "text": None, "texts": [ZHONG], "lang": "zh"}
        | {"langs": ["zh"], "state": "bad", "width": 400, "score": 0.25, "photo": b"\x89PNG1"},
        {"stem": "r2", "uid": "", "other": 12, "text": CATS, "texts": [RED, RED], "lang": "en"}
        | {"langs": ["en", "en"], "state": None, "width": None, "score": None, "photo": b"\x89PNG2"},
        {"stem": "r3", "uid": None, "other": None, "text": THAI, "texts": [], "lang": "th"}
        | {"langs": [], "state": "good", "width": 300, "score": -1.5, "photo": None},
        {"stem": "r0", "uid": "k0", "other": 10, "text": "a second text", "texts": [CATS], "lang": "en"}
        | {"langs": ["en", "en"], "state": "good", "width": 500, "score": 2.0, "photo": b"\x89PNG4"},
        {"stem": "r5", "other": 15, "text": "  ", "texts": ["", "\u3000"], "lang": ""}
        | {"langs": None, "state": "", "width": 0, "score": 0.0, "photo": b"\x89PNG5"},
        {"stem": "r6", "uid": "k6", "other": 16, "text": ZHONG, "texts": [ZHONG, CATS], "lang": None}
        | {"langs": ["zh"], "state": "good", "width": 100, "score": 1.0, "photo": b"\x89PNG6"},
    ],
    "b/0": [
        {"stem": "r7", "uid": "k7", "other": 17, "text": "water trees and a cat, a dog", "texts": None, "lang": "xx"}
        | {"langs": ["en"], "state": "bad", "width": 300, "score": 0.5, "photo": None},
        {"stem": "r8", "uid": "k8", "other": 18, "text": 'a "red" house on the mountain', "lang": "en"}
        | {"state": "good", "width": 250, "photo": b"\x89PNG8"},
        {"stem": "r9", "uid": "k9", "other": 19, "text": CATS, "texts": [RED, ZHONG], "lang": "en"}
        | {"langs": ["en", None], "state": "worse", "width": 350, "score": 0.75, "photo": b"\x89PNG9"},
        {"stem": "r8", "uid": "k8", "other": 20, "text": RED, "texts": [RED], "lang": "th"}
        | {"langs": ["th"], "state": "good", "width": 600, "score": 0.5, "photo": b"\x89PNGa"},
        {"stem": "rb", "uid": "k0", "other": 21, "text": RED, "texts": [RED], "lang": "en"}
        | {"langs": ["en"], "state": "good", "width": 450, "score": 0.125, "photo": b"\x89PNGb"},
    ],
}
TEXT_FIELDS = ("uid", "text", "lang", "state")
FIELDS = ("uid", "other", "text", "texts", "lang", "langs", "state", "width", "score")
KINDS = {"other": pa.int64(), "width": pa.int64(), "score": pa.float64()}
KINDS |= dict.fromkeys(("texts", "langs"), pa.list_(pa.string())) | dict.fromkeys(TEXT_FIELDS, pa.string())


# --- the formats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format, and what it can hold of the rows."""

    suffix: str
    write: Callable[[Path, Sequence[Row], bool], Any]
    """Write a shard; bool: without a header, where the format has one."""
    fields: tuple[str, ...] = FIELDS
    names: tuple[tuple[str, str], ...] = ()
    """Fields that have another name here."""
    is_text: bool = False
    """Every value is a text: there are no numbers and no nulls."""
    has_columns: bool = True
    """All rows have all fields.  False: records, each with its own."""
    has_stems: bool = False
    """Pairs have names without a key."""
    images: str = ""
    """inside: the shard holds them; paths: a column names their files, if pool.image_field is set; empty: none."""


def write_txt_tar(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    members = []
    for row in rows:
        members += [(f"{row['stem']}.png", row["photo"])] if row["photo"] is not None else []
        members += [(f"{row['stem']}.txt", row["text"].encode())] if row["text"] is not None else []
    write_tar(path, members)


def write_json_tar(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    members = []
    for row in rows:
        members += [(f"{row['stem']}.png", row["photo"])] if row["photo"] is not None else []
        members.append((f"{row['stem']}.json", as_json(fields_of(row))))
    write_tar(path, members)


def write_jsonl(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    path.write_text("".join(f"{json.dumps(fields_of(row))}\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Row], is_bare: bool, *, has_paths: bool = False) -> None:
    columns = {name: pa.array([row.get(name) for row in rows], KINDS[name]) for name in FIELDS}
    photos = write_photos(path, rows) if has_paths else [row["photo"] for row in rows]
    photo = pa.array(photos) if has_paths else pa.array([photo and {"bytes": photo, "path": "x"} for photo in photos])
    write_table(path, {**columns, "photo": photo}, row_group_size=2)


def write_delimited(path: Path, rows: Sequence[Row], is_bare: bool) -> None:
    lines = [tuple("" if row.get(name) is None else row[name] for name in FLAT) for row in rows]
    photos = write_photos(path, rows)
    lines = [(*line, photo or "") for line, photo in zip(lines, photos, strict=True)]
    header = [] if is_bare else [(*FLAT, "photo")]
    with open(path, "w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            csv.writer(file).writerows([*header, *lines])
        else:
            file.writelines("\t".join(map(str, line)) + "\n" for line in [*header, *lines])


def write_photos(path: Path, rows: Sequence[Row]) -> list[str | None]:
    """Write the images next to a table; return their paths."""
    names = [None if row["photo"] is None else f"{path.stem}-{number}.png" for number, row in enumerate(rows)]
    for name, row in zip(names, rows, strict=True):
        if name is not None:
            (path.parent / name).write_bytes(row["photo"])
    return names


def fields_of(row: Row) -> Row:
    return {name: row[name] for name in FIELDS if name in row}


FLAT = tuple(name for name in FIELDS if name not in ("texts", "langs"))
FORMATS = {
    "tar of .txt": Format(
        suffix=".tar",
        write=write_txt_tar,
        fields=("text",),
        names=(("text", "txt"),),
        has_columns=False,
        has_stems=True,
        images="inside",
    ),
    "tar of .json": Format(suffix=".tar", write=write_json_tar, has_columns=False, has_stems=True, images="inside"),
    "Parquet with images": Format(suffix=".parquet", write=write_parquet, images="inside"),
    "Parquet with paths": Format(
        suffix=".parquet", write=functools.partial(write_parquet, has_paths=True), images="paths"
    ),
    "JSONL": Format(suffix=".jsonl", write=write_jsonl, has_columns=False),
    "CSV": Format(suffix=".csv", write=write_delimited, fields=FLAT, is_text=True, images="paths"),
    "TSV": Format(suffix=".tsv", write=write_delimited, fields=FLAT, is_text=True, images="paths"),
}


# --- the keys of [pool] -----------------------------------------------------------------------------------------------

BASE: Settings = {"key": "uid", "texts": ["text"]}
TWO: Settings = {"texts": ["text", "texts"]}
# Options of each key.  "*.txt" are files of keys; a place has the shards of its folder.
OPTIONS: dict[str, list[Settings]] = {
    "key": [{"key": key} for key in ("member", "row", "other", "json:uid", "nowhere")],
    "texts": [{"texts": texts} for texts in ([], ["texts"], ["texts", "text"], ["json:text"], ["nowhere"])],
    "lang": [{"lang": "lang"}, {"lang": "json:langs"}, TWO | {"lang": "langs"}, {"lang": "nowhere"}],
    "where": [
        *({"where": [["width", comparison, 300]]} for comparison in ("=", "!=", "<", "<=", ">", ">=")),
        *({"where": [["state", comparison, ["good", "worse"]]]} for comparison in ("in", "not in")),
        {"where": [["state", "!=", "good"]]},
        {"where": [["json:score", ">", 0], ["width", "in", [250, 300, 400.0]]]},
        {"where": []},
        {"where": [["state", ">", 1]]},
        {"where": [["nowhere", "=", 1]]},
    ],
    "image_field": [
        {"image_field": "photo"},
        {"image_field": "nowhere"},
        {"image_field": "photo", "where": [["state", "=", "good"]]},  # a row that is left out may lack its picture
    ],
    "columns": [{"columns": [*FLAT, "photo"]}],
    "valid_keys": [{"valid_keys": "valid.txt"}],
    "deny_keys": [{"deny_keys": ["denied.txt", "more.txt"]}],
    "text_weights": [TWO | {"text_weights": [3.0, 1.0]}],
    "place": [
        {"place": [{"path": "a", "where": [["state", "=", "good"]], "lang": "lang"}, {"path": "b", "key": "other"}]},
        {"place": [{"path": "a", "texts": ["texts"], "lang": "langs"}, {"path": "b", "lang": "lang"}]},
    ],
}
KEY_FILES = {
    "valid.txt": ["k0", "k6", "k9", "k7", "a/r0", "b/r9", "10", "19"],
    "denied.txt": ["k9", "a/r6", "19"],
    "more.txt": ["k1", "a/r1"],
}


def test_every_key_of_the_pool_has_options() -> None:
    names = {*PoolConfig.__dataclass_fields__} - {"build", "parts"}  # a builder draws its own rows
    assert {*OPTIONS} | {"path", "broken_shards"} == names, "these two have tests of their own"
    assert {*CHANGES} == names


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pool of every format, `<format>/bare` without headers, and the files of keys."""
    folder = tmp_path_factory.mktemp("pools")
    for name, form in FORMATS.items():
        for shard, rows in SHARDS.items():
            for kind in ("whole", "bare"):
                path = folder / name / kind / f"{shard}{form.suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                form.write(path, rows, kind == "bare")
    for name, keys in KEY_FILES.items():
        (folder / name).write_text("\n".join(keys))
    return folder


def settings_of(options: Settings, name: str, pools: Path) -> Settings:
    """Return [pool] of a pool in a format."""
    names = dict(FORMATS[name].names)
    folder = pools / name / ("bare" if "columns" in options else "whole")
    settings = BASE | options
    settings["texts"] = [names.get(text, text) for text in settings["texts"]]
    if "place" in settings:
        settings["place"] = [place | {"path": str(folder / place["path"])} for place in settings["place"]]
    else:
        settings["path"] = str(folder)
    if "valid_keys" in settings:
        settings["valid_keys"] = str(pools / settings["valid_keys"])
    settings["deny_keys"] = [str(pools / file) for file in settings.get("deny_keys", [])]
    return settings


# --- plain Python -----------------------------------------------------------------------------------------------------

COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt}
COMPARE |= {">=": operator.ge, "in": lambda value, items: value in items}
COMPARE |= {"not in": lambda value, items: value not in items}
DEFAULT_PLACES = ("txt", "texts", "text")


def bare(name: str) -> str:
    return name.removeprefix("json:")


def held(row: Row, form: Format) -> Row:
    """Return what the format holds of a row."""
    names = dict(form.names)
    fields = {}
    for name in form.fields:
        value = row.get(name)
        if form.is_text:
            value = "" if value is None else str(value)
        if form.has_columns or (name in row and not (form.names and value is None)):
            fields[names.get(name, name)] = value
    return fields


def plain_problems(rows: list[Row], form: Format, config: Settings) -> tuple[list[str], list[str]]:
    """Return (what every shard must have, what stops one shard too): beginnings of problems."""
    names = {name for row in rows for name in row} | ({"photo"} if form.has_columns else set())
    missing, wrong = [], []
    if bare(config["key"]) not in {*names, "member", "row"}:
        missing.append(f"pool.key: no column or field '{bare(config['key'])}'")
    absent = [bare(name) for name in config["texts"] if bare(name) not in names]
    if form.has_columns or len(absent) == len(config["texts"]):
        missing += [f"pool.texts: no column or field '{name}'" for name in absent]
    lang = config.get("lang")
    if lang and bare(lang) not in names:
        missing.append(f"pool.lang: no column or field '{bare(lang)}'")
    compared = [bare(name) for name, *_ in config.get("where") or []]
    wrong += [f"pool.where: no column or field '{name}'" for name in compared if name not in names]
    image_field = config.get("image_field")
    if image_field and not form.has_columns:
        wrong.append("pool.image_field: only Parquet, CSV and TSV have columns")
    elif image_field and image_field not in names:
        wrong.append(f"pool.image_field: no column or field '{image_field}'")
    if config["key"] == "member" and not form.has_stems:
        wrong.append('pool.key = "member" is for tars only')
    if wrong or (missing and form.has_columns):
        return [], [*missing, *wrong]
    for name, _, operand in config.get("where") or []:
        values = {type(row[bare(name)]) for row in rows if row.get(bare(name)) is not None}
        kinds = {str if kind is str else float for kind in values}
        operands = operand if isinstance(operand, list) else [operand]
        if kinds != {str if isinstance(item, str) else float for item in operands}:
            return [], [f"pool.where: {bare(name)} holds"]
    return missing, []


def plain_pairs(shard: str, rows: list[Row], form: Format, config: Settings) -> tuple[list[tuple], list[tuple]]:
    """Return (key, text_idx, place, text, language, reason) of each text, and (key, row, image) of each image."""
    texts, images, seen = [], [], set()
    for number, row in enumerate(rows):
        fields = held(row, form)
        if not all(fulfils(fields.get(bare(name)), *how) for name, *how in config.get("where") or []):
            continue
        has_images = form.images == "inside" or (form.images == "paths" and config.get("image_field"))
        image = row["photo"] if has_images else None
        stem = f"{Path(shard).parent}/{row['stem']}"
        stand_in = stem if form.has_stems else f"{shard}{form.suffix}#{number}"
        if config["key"] in ("member", "row"):
            key = stem if config["key"] == "member" else f"{shard}{form.suffix}#{number}"
        else:
            key = fields.get(bare(config["key"]))
            key = None if key in (None, "") else str(key)
        if image is None and has_images and form.images == "paths":
            key, stand_in = None, key or stand_in  # a row of a table that names no picture
        is_repeated = key in seen
        texts += texts_of_row(fields, form, config, key, stand_in, is_repeated)
        if key is not None and not is_repeated:
            images += [(key, number, image)] if image is not None else []
            seen.add(key)
    return texts, images


def texts_of_row(
    fields: Row, form: Format, config: Settings, key: str | None, stand_in: str, is_repeated: bool
) -> list[tuple]:
    places = [bare(name) for name in config["texts"]]
    if not places:
        places = [name for name in DEFAULT_PLACES if name in fields][:1]
    stored = []
    for place, name in enumerate(places):
        value = fields.get(name)
        if name in fields:
            stored += [(place, text) for text in (value if isinstance(value, list) else [value])]
    stored = (stored or [(0, None)]) if key is not None else [(-1, None)]
    labels = fields.get(bare(config.get("lang") or ""))
    is_wrong = isinstance(labels, list) and len(labels) != len(stored) and not (not labels and len(stored) == 1)
    rows = []
    for number, (place, text) in enumerate(stored):
        label = labels
        if isinstance(labels, list):
            label = labels[number] if number < len(labels) and not is_wrong else None
        is_empty = not (text or "").strip()
        reason = "no_text" if is_empty else "kept"
        reason = "bad_pair" if key is None or is_wrong else "duplicate" if is_repeated else reason
        text = text if reason == "kept" else None
        rows.append((key or stand_in, number, place, text, label or None, reason))
    return rows


def fulfils(value: Any, comparison: str, operand: Any) -> bool:
    return value is not None and bool(COMPARE[comparison](value, operand))


def plain_pool(name: str, settings: Settings) -> dict[str, tuple] | list[str]:
    """Return the pairs and images of each shard, or the beginnings of the problems."""
    form = FORMATS[name]
    configs = {shard: config_of(shard, settings) for shard in SHARDS}
    problems = {shard: plain_problems([held(r, form) for r in SHARDS[shard]], form, configs[shard]) for shard in SHARDS}
    of_places = [[name for name in SHARDS if name.startswith(place)] for place in ("a", "b")]
    refusals: list[str] = []  # of places of which no shard has what the recipe names
    for shards in of_places if "place" in settings else [list(SHARDS)]:
        if all(any(problems[shard]) for shard in shards):
            missing, refused = problems[shards[0]]
            refusals += missing or refused
    if refusals:
        return refusals
    for _, refused in problems.values():
        if refused:
            return refused
    return {f"{shard}{form.suffix}": plain_pairs(shard, rows, form, configs[shard]) for shard, rows in SHARDS.items()}


def config_of(shard: str, settings: Settings) -> Settings:
    """Return [pool] with the options of the place that a shard lies in."""
    own = [place for place in settings.get("place", []) if Path(place["path"]).name == Path(shard).parent.name]
    return settings | (own[0] if own else {})


# --- what is read -----------------------------------------------------------------------------------------------------


def read_run(run_dir: Path, recipe: Recipe) -> dict[str, tuple]:
    """Return the pairs and images of each shard as RUN/pool has them."""
    found = {}
    for shard in pool.list_shards(recipe.pool):
        texts = pool.read_pairs(run_dir, shard.name, pool.EVERY_KEY)
        langs = [None] * len(texts.key) if texts.lang is None else texts.lang.to_pylist()
        rows = [
            (key, number, place, text, lang, reason)
            for (key, number, text, reason), place, lang in zip(
                rows_of(texts), texts.place.tolist(), langs, strict=True
            )
        ]
        images = pool.read_images(run_dir, shard.name, pool.EVERY_KEY)
        contents = pool.read_contents(pool.image_places(shard, images))
        found[shard.name] = (
            rows,
            list(zip(*(images[name].to_pylist() for name in ("key", "row")), contents, strict=True)),
        )
    return found


def check_lists(run_dir: Path, recipe: Recipe, expected: dict[str, tuple]) -> None:
    """Check that the recipe's lists of keys leave out the texts and images that they exclude, and no other."""
    config = recipe.pool
    valid = {*KEY_FILES["valid.txt"]} if config.valid_keys else None
    denied = {key for file in config.deny_keys for key in KEY_FILES[Path(file).name]}
    lists = key_lists(context(recipe, run_dir))
    for shard, (rows, images) in expected.items():
        reasons = []
        for key, *_, reason in rows:
            is_out = key in denied or (valid is not None and key not in valid)
            reasons.append("not_valid" if is_out and reason == "kept" else reason)
        assert [row[3] for row in rows_of(pool.read_pairs(run_dir, shard, lists))] == reasons
        kept = [key for key, *_ in images if key not in denied and (valid is None or key in valid)]
        assert pool.read_images(run_dir, shard, lists)["key"].to_pylist() == kept


def check_refusal(problems: Sequence[str], expected: Sequence[str]) -> None:
    assert len(problems) == len(expected), (problems, expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert re.sub(r"^[^:]+: (?=pool\.)", "", problem).startswith(beginning), (problem, beginning)
        assert not beginning.endswith("'") or re.search("; (did you mean '.+'[?]|there is: .+)$", problem), problem


SINGLES = [(key, options) for key in OPTIONS for options in OPTIONS[key]]
PAIRS = [
    one | other
    for (key, one), (other_key, other) in itertools.combinations(SINGLES, 2)
    if key != other_key
    and all(one[name] == other[name] for name in one.keys() & other.keys())
    and not ("text_weights" in one and any("texts" in place for place in other.get("place", [])))  # refused
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("step", [30, pytest.param(1, marks=pytest.mark.slow)])
def test_two_keys_of_the_pool_give_the_pairs_of_plain_python(step: int, name: str, pools: Path, tmp_path: Path) -> None:
    singles = [options for _, options in SINGLES]
    for options in singles + PAIRS[list(FORMATS).index(name) % step :: step]:
        settings = settings_of(options, name, pools)
        recipe = make_recipe_of(settings)
        expected = plain_pool(name, settings)
        problems = read_into(tmp_path, recipe)
        if isinstance(expected, list):
            check_refusal(problems, expected)
            continue
        assert problems == [], options
        assert read_run(tmp_path, recipe) == expected, options
        check_lists(tmp_path, recipe, expected)


def read_into(run_dir: Path, recipe: Recipe) -> Sequence[str]:
    """Read the shards as the stage does, without its bookkeeping; return the problems that refuse them."""
    shards = pool.list_shards(recipe.pool)
    try:
        refuse_wrong_columns(shards, recipe.pool)
        for shard in shards:
            index_shard(shard, config=recipe.pool, run_dir=run_dir, needs_texts=True)
    except (UserError, WrongColumns) as error:
        return error.problems
    return []


def make_recipe_of(settings: Settings, **sections: Any) -> Recipe:
    sections = {"languages": {"codes": list(LISTS)}, "balance": {"tail_fraction": 0.3}, **sections}
    return load_recipe({"pool": settings, **sections})


@pytest.mark.parametrize("name", FORMATS)
def test_each_key_of_the_pool_gives_the_run_of_plain_python(name: str, pools: Path, tmp_path: Path) -> None:
    for number, (key, options) in enumerate([("", {}), *SINGLES]):
        settings = settings_of(options, name, pools)
        has_images = FORMATS[name].images == "inside" or (FORMATS[name].images and "image_field" in options)
        recipe = make_recipe_of(settings, curate={"write": "tars" if has_images else "list"})
        expected = plain_pool(name, settings)
        run_dir = tmp_path / str(number)
        if isinstance(expected, list):
            with pytest.raises((UserError, StageFailed)) as refused:
                run_stages(recipe, run_dir, stages="pool")
            error = refused.value
            said = (
                error.problems
                if isinstance(error, UserError)
                else re.split(r"; (?=pool\.)", next(iter(error.failures.values())))
            )
            check_refusal(said, expected)
            continue
        if options in OPTIONS.get(key, [])[1:] and key not in ("lang", "place"):
            continue  # the test above reads these
        outcome = plain_outcome(fates_of(expected, recipe, settings), recipe, **key_sets(recipe))
        is_empty = not any(outcome.kept.values())  # later stages refuse such a pool
        run_stages(recipe, run_dir, stages="pool" if is_empty else "pool match balance curate")
        assert read_run(run_dir, recipe) == expected, options
        if is_empty:
            continue
        counts = {lang: np.load(layout.entry_counts(run_dir, lang)).tolist() for lang in LISTS}
        assert counts == outcome.counts, options
        for shard in expected:
            matched = read_matched(run_dir, shard).to_pylist()
            columns = ("key", "text_idx", "lang", "text", "entry_ids")
            assert [tuple(row[column] for column in columns) for row in matched] == outcome.matched[shard], options
            kept = curate.read_curated(run_dir, shard).to_pylist()
            columns = ("key", "text_idx", "text", "lang", "keep_prob")
            assert [tuple(row[column] for column in columns) for row in kept] == outcome.kept[shard], options
        if has_images:
            check_tars(run_dir, expected, outcome.kept)


def check_tars(run_dir: Path, expected: dict[str, tuple], kept: dict[str, list[tuple]]) -> None:
    """Check that the written tars hold the kept texts that have an image, with that image."""
    samples = []
    for shard, (_, images) in expected.items():
        image_of = {key: image for key, _, image in images}
        samples += [(key, [text], image_of[key]) for key, _, text, *_ in kept[shard] if key in image_of]
    written = [row for path in sorted((run_dir / "curate/tars").glob("*.tar")) for row in rows_of_tar(path)]
    assert [(row["key"], row["texts"], row["image"]) for row in written] == samples


def key_sets(recipe: Recipe) -> dict[str, Any]:
    valid = {*KEY_FILES["valid.txt"]} if recipe.pool.valid_keys else None
    return {"valid": valid, "denied": [key for file in recipe.pool.deny_keys for key in KEY_FILES[Path(file).name]]}


def fates_of(expected: dict[str, tuple], recipe: Recipe, settings: Settings) -> Fates:
    """Return the fates of the texts of plain_pool; a label of the pool decides the language."""
    fates: Fates = {}
    for shard, (rows, _) in expected.items():
        fates[shard] = []
        is_labelled = "lang" in config_of(shard, settings)
        for key, number, place, text, label, reason in rows:
            if number == 0:
                fates[shard].append([])
            if reason != "kept":
                fates[shard][-1].append((reason, key, number, "und", "", [], place))
                continue
            lang = label if label in LISTS else None
            if not is_labelled:
                lang = find_lang(text, recipe)
            fates[shard][-1].append(plain_fate(key, number, text, lang, place, LISTS))
    return fates


LANGS: dict[str, str | None] = {}


def find_lang(text: str, recipe: Recipe) -> str | None:
    if text not in LANGS:
        LANGS[text] = plain_lang(text, recipe, LISTS)
    return LANGS[text]


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_shard_stops_the_pool_or_is_skipped(name: str, pools: Path, tmp_path: Path) -> None:
    form = FORMATS[name]
    packs = form.suffix not in (".tar", ".parquet")
    folder = tmp_path / "pool"
    damaged = f"c/0{form.suffix}{'.gz' if packs else ''}"
    for shard, rows in SHARDS.items():
        (folder / shard).parent.mkdir(parents=True)
        form.write(folder / f"{shard}{form.suffix}", rows, False)
    whole = (folder / f"a/0{form.suffix}").read_bytes()
    (folder / "c").mkdir()
    (folder / damaged).write_bytes((gzip.compress(whole) if packs else whole)[:100])
    settings = settings_of({"key": "member"} if form.has_stems else {}, name, pools) | {"path": str(folder)}
    with pytest.raises(StageFailed) as failed:
        run_stages(make_recipe_of(settings), tmp_path / "stopped", stages="pool")
    assert list(failed.value.failures) == [damaged]
    recipe = make_recipe_of(settings | {"broken_shards": "skip"})
    report = run_stages(recipe, tmp_path / "run", stages="pool")["pool"]
    assert list(report["skipped"]) == [damaged]
    expected = plain_pool(name, settings)
    for shard in expected:
        texts = pool.read_pairs(tmp_path / "run", shard, pool.EVERY_KEY)
        assert [row[0] for row in rows_of(texts)] == [row[0] for row in expected[shard][0]]
    for shard in SHARDS:
        (folder / f"{shard}{form.suffix}").unlink()
    with pytest.raises(StageFailed):  # nothing would be left
        run_stages(recipe, tmp_path / "empty", stages="pool")


# --- a changed key of [pool] ------------------------------------------------------------------------------------------

LABELLED: Settings = {"lang": "lang"}
MISSPELT = [{"other": "uid", "uid": "other"}.get(name, name) for name in (*FLAT, "photo")]
# key -> its settings before and after; "path" is a pool in another folder
CHANGES: dict[str, tuple[Settings, Settings]] = {
    "path": ({}, {}),
    "place": (OPTIONS["place"][0], OPTIONS["place"][1]),
    "columns": ({"columns": MISSPELT}, OPTIONS["columns"][0]),
    "key": ({}, {"key": "other"}),
    "texts": ({}, TWO),
    "text_weights": (TWO, OPTIONS["text_weights"][0]),
    "lang": ({}, LABELLED),
    "image_field": ({}, {"image_field": "photo"}),
    "where": ({}, {"where": [["state", "=", "good"]]}),
    "valid_keys": ({}, OPTIONS["valid_keys"][0]),
    "deny_keys": ({"deny_keys": ["denied.txt"]}, {}),
    "broken_shards": ({}, {"broken_shards": "skip"}),
}


@pytest.mark.parametrize("key", CHANGES)
def test_run_after_a_changed_key_equals_a_fresh_run(key: str, pools: Path, tmp_path: Path) -> None:
    name = "CSV" if key == "columns" else "Parquet with paths"
    recipes = []
    for options in CHANGES[key]:
        (tmp_path / "zh.txt").write_text("\n".join(LISTS["zh"]))
        metadata = {"sources": ["number", "pool"], "lists": {"zh": str(tmp_path / "zh.txt")}, "pool_min_count": 1}
        sections = {"metadata": metadata, "languages": {"codes": ["en", "zh"]}, "balance": {"tail_fraction": 0.5}}
        recipes.append(make_recipe_of(settings_of(options, name, pools), **sections))
    before, after = recipes
    if key == "path":
        other = Path(shutil.copytree(pools / name / "whole/b", tmp_path / "elsewhere"))
        write_parquet(other / "0.parquet", SHARDS["b/0"][2:], False, has_paths=True)
        after = dataclasses.replace(after, pool=dataclasses.replace(after.pool, path=str(other)))
    assert getattr(before.pool, key) != getattr(after.pool, key)
    run_all(before, tmp_path / "run")
    old = contents(tmp_path / "run", ["recipe.toml"])
    (tmp_path / "run/recipe.toml").unlink()  # `run_all` writes the new one; the data card quotes it
    if key == "path":
        with pytest.raises(UserError, match=r"was made from .*start anew with --from pool"):
            run_all(after, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/pool")
    run_all(after, tmp_path / "run")
    run_all(after, tmp_path / "fresh")
    new, fresh = (contents(tmp_path / folder, ["recipe.toml"]) for folder in ("run", "fresh"))
    assert new != old, f"the change of pool.{key} changes nothing"
    assert sorted(new) == sorted(fresh)
    assert [file for file in new if new[file] != fresh[file]] == []


def run_all(recipe: Recipe, run_dir: Path) -> None:
    for stage in ("pool", "metadata", "match", "balance", "curate"):
        run_stage(stage, recipe, run_dir, QUIET)
