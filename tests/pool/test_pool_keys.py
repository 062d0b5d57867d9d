"""A changed key of [pool]: every stage that reads it runs again, shard by shard, and no other shard does."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import pytest

from killed import contents, modified
from pools import parquet_of, structs, write_lines, write_table
from stages import QUIET, run_stage
from tars import sample, write_tar
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.settings import Config, Decides, deciding
from worldclip.plugins.emoji import build as emoji
from worldclip.plugins.world import build as world_build
from worldclip.pool.config import PoolConfig
from worldclip.pool.records import without_texts

WORDS = ("red", "green", "blue", "house", "cat", "dog")
DESIGN = Path(__file__).parents[2] / "docs" / "design.md"

Settings = dict[str, Any]


def rows(name: str, number: int) -> list[Settings]:
    """Return pairs whose every column differs from row to row and from shard to shard."""
    return [
        {
            "uid": f"{name}{i}",
            "other": f"other_{name}{i}",
            "text": f"{WORDS[(i + number) % 6]} {WORDS[i % 3]}",
            "alt": f"{WORDS[(i + 2) % 6]} thing",
            "lang": "en" if i % 2 else "de",
            "lang2": "de" if i % 3 else "en",
            "width": 100 * i,
        }
        for i in range(number + 5)
    ]


def parquet(pairs: list[Settings]) -> bytes:
    columns = {name: [pair[name] for pair in pairs] for name in pairs[0]}
    for name in ("photo", "scan"):
        columns[name] = structs([f"{name} {i}".encode() for i in range(len(pairs))])
    return parquet_of(columns)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: pools in several formats, lists of entries and keys, and stubs that build small pools."""
    folder = tmp_path / "world"
    write_lines(folder / "one" / "j.jsonl", rows("j", 2))
    for name in ("two", "csv", "part_few", "part_fewer"):
        (folder / name).mkdir()
    for place, shards in (("one", "ab"), ("two", "bc")):
        for number, shard in enumerate(shards):
            (folder / place / f"{shard}.parquet").write_bytes(parquet(rows(shard, number)))
    for number, shard in enumerate("ab"):
        with open(folder / "csv" / f"{shard}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(pair.values() for pair in rows(shard, number))
    for lang in ("en", "de"):
        (folder / f"{lang}.txt").write_text("\n".join(WORDS if lang == "en" else WORDS[::2]))
    for name, keys in (("few", ["a1", "a2", "b3"]), ("fewer", ["a1", "b3"])):
        write_table(folder / f"{name}.parquet", {"key": keys})
        (folder / f"part_{name}" / "words.txt").write_text(" ".join(keys))

    def build_small(out: Path, words: str) -> Settings:
        write_tar(out / "pairs" / "0.tar", [*sample("0", f"red {words}"), *sample("1", "blue cat")])
        return {"samples": 2}

    def build_world(out: Path, folders: Mapping[str, Path], *, train_on_stamps: bool, executor: object) -> Settings:
        texts = [(path / "words.txt").read_text() for path in folders.values()]
        return build_small(out, f"green {train_on_stamps} {' '.join(texts)}")

    monkeypatch.setattr(emoji, "build_emoji", lambda out, executor: build_small(out, "house"))
    monkeypatch.setattr(emoji, "source_versions", lambda: {"emoji": "1"})
    monkeypatch.setattr(world_build, "build_world", build_world)
    monkeypatch.setattr(world_build, "source_versions", lambda: {"openmoji": "1"})
    monkeypatch.chdir(folder)
    return folder


CSV: Settings = {"path": "csv", "image_field": None}
# key of [pool] -> its settings before and after, besides those of `recipe_of`
CASES: dict[str, tuple[Settings, Settings]] = {
    "path": ({}, {"path": "two"}),
    "build": ({}, {"build": "emoji"}),
    "parts": (
        {"build": "world", "parts": {"flags": "part_few"}},
        {"build": "world", "parts": {"flags": "part_fewer"}},
    ),
    "build_options": ({"build": "world"}, {"build": "world", "build_options": {"train_on_stamps": True}}),
    "format": ({}, {"format": "jsonl", "image_field": None}),
    "columns": (
        CSV | {"columns": ["uid", "other", "text", "alt", "lang", "lang2", "width"]},
        CSV | {"columns": ["uid", "other", "alt", "text", "lang", "lang2", "width"]},
    ),
    "key": ({}, {"key": "other"}),
    "texts": ({}, {"texts": ["text", "alt"]}),
    "text_weights": (
        {"texts": ["text", "alt"], "text_weights": [1.0, 1.0]},
        {"texts": ["text", "alt"], "text_weights": [0.5, 1.0]},
    ),
    "lang": ({}, {"lang": "lang2"}),
    "image_field": ({}, {"image_field": "scan"}),
    "where": ({}, {"where": [["width", ">=", 200]]}),
    "valid_keys": ({"valid_keys": "few.parquet"}, {"valid_keys": "fewer.parquet"}),
    "deny_keys": ({"deny_keys": ["few.parquet"]}, {"deny_keys": ["fewer.parquet"]}),
}
BUILT = {"key": "member", "texts": [], "lang": None, "image_field": None}


def recipe_of(settings: Settings) -> Recipe:
    base = {"key": "uid", "texts": ["text"], "lang": "lang", "image_field": "photo"}
    if not settings.keys() & {"path", "build"}:
        base["path"] = "one"
    values = base | (BUILT if "build" in settings else {}) | settings
    return load_recipe(
        {
            "pool": {name: value for name, value in values.items() if value is not None},
            "languages": {"codes": ["en", "de"]},
            "metadata": {"sources": ["number", "pool"], "lists": {"de": "de.txt"}, "pool_min_count": 1},
            "balance": {"tail_fraction": 0.5},
        }
    )


def run_all(recipe: Recipe, run_dir: Path) -> None:
    for stage in ("pool", "metadata", "match", "balance", "curate"):
        run_stage(stage, recipe, run_dir, QUIET)


def test_every_key_of_the_pool_has_a_case() -> None:
    assert set(CASES) == {field.name for field in dataclasses.fields(PoolConfig)}


@pytest.mark.parametrize("key", CASES)
def test_run_after_a_changed_key_equals_a_fresh_run(key: str, world: Path, tmp_path: Path) -> None:
    before, after = map(recipe_of, CASES[key])
    assert getattr(before.pool, key) != getattr(after.pool, key)
    run_all(before, tmp_path / "run")
    old = contents(tmp_path / "run", ["recipe.toml"])
    (tmp_path / "run" / "recipe.toml").unlink()  # `run_all` writes the new one; the data card quotes it
    if before.pool.place != after.pool.place:
        with pytest.raises(UserError, match=r"was made from .*start anew with --from pool"):
            run_all(after, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "pool")
    run_all(after, tmp_path / "run")
    run_all(after, tmp_path / "fresh")
    new, fresh = (contents(tmp_path / name, ["recipe.toml"]) for name in ("run", "fresh"))
    assert new != old, f"the case of pool.{key} changes nothing"
    assert sorted(new) == sorted(fresh)
    assert [name for name in new if new[name] != fresh[name]] == []


# --- a key that is new ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrownPool(PoolConfig):
    """The section with two keys that a later version may add."""

    SECTION: ClassVar[str | None] = "pool"
    new_text: Annotated[int, Decides("match")] = 0
    new_pair: Annotated[int, Decides("pool", "match")] = 0
    new_sum: Annotated[int, Decides("match.counts")] = 0


@pytest.mark.parametrize(
    ("key", "redone"),
    [
        ("new_text", {"match/texts", "match/counts", "metadata/pool"}),
        ("new_pair", {"match/texts", "match/counts", "metadata/pool", "pool/index"}),
        ("new_sum", set()),
    ],
)
def test_a_new_key_needs_its_mark_only(key: str, redone: set[str], world: Path, tmp_path: Path) -> None:
    recipe = recipe_of({})
    values = {field.name: getattr(recipe.pool, field.name) for field in dataclasses.fields(PoolConfig)}
    old, new = (dataclasses.replace(recipe, pool=GrownPool(**values, **{key: value})) for value in (0, 1))
    run_all(old, tmp_path / "run")
    folders = ("pool/index", "metadata/pool", "match/texts", "match/counts")
    before = {folder: modified(tmp_path / "run" / folder) for folder in folders}
    run_all(new, tmp_path / "run")
    after = {folder: modified(tmp_path / "run" / folder) for folder in folders}
    assert {folder for folder in folders if before[folder] != after[folder]} == redone
    for folder in redone:
        assert all(after[folder][path] != time for path, time in before[folder].items())


def test_tools_compare_a_new_key() -> None:
    assert "new_pair" in GrownPool(path="p").identity
    assert {"new_pair", "new_text"} <= GrownPool(path="p").identity_of_texts.keys()


# --- which keys are read ----------------------------------------------------------------------------------------------


class Watched:
    """A PoolConfig that notes which of its fields are read."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in PoolConfig.__dataclass_fields__:
            self.read.add(name)
        return getattr(self.config, name)


# what is read -> the output that it decides, and its reader
READERS: dict[str, tuple[str, Callable[[Shard, PoolConfig], object]]] = {
    "texts": ("match.texts", pool.read_texts),
    "keys": ("pool.index", pool.read_keys),
    "index": ("pool.index", pool.index_of),
    "images": ("pool.index", lambda shard, config: list(pool.read_images(shard, config)[1])),
    "presence of images": ("pool.index", lambda shard, config: pool.holds_images([shard], config)),
    "rows of keys": (
        "pool.index",
        lambda shard, config: (
            pool.is_table(shard.name) and pool.rows_of_keys(shard, config, pool.read_keys(shard, config)[0])
        ),
    ),
    "one field": ("pool.index", lambda shard, config: pool.read_records(shard, config, ["width"])),
    "other fields": (
        "match.texts",
        lambda shard, config: [without_texts(one, config) for one in pool.read_records(shard, config, None)[1]],
    ),
}


@pytest.mark.parametrize("name", ["a.parquet", "j.jsonl", "a.csv", "a.tar"])
@pytest.mark.parametrize("where", [None, (("width", ">=", 100),)])
def test_readers_of_a_shard_read_no_key_that_its_marker_lacks(name: str, where: Any, world: Path) -> None:
    write_tar(world / "tars" / "a.tar", [*sample("0", "red", rows("t", 0)[1]), *sample("1", "cat", rows("t", 0)[2])])
    folder = next(folder for folder in ("one", "csv", "tars") if (world / folder / name).exists())
    shard = Shard.of_file(name, str(world / folder / name))
    is_csv, is_tar = name == "a.csv", name == "a.tar"
    config = PoolConfig(
        path=str(world / folder),
        key="json:uid" if is_tar else "uid",
        texts=("txt", "json:alt") if is_tar else ("text",) if is_csv else ("text", "alt"),
        lang="json:lang" if is_tar else "lang",
        columns=tuple(rows("t", 0)[0]) if is_csv else (),
        image_field="photo" if name == "a.parquet" else None,
        where=None if is_csv or is_tar else where,
    )
    for what, (output, read) in READERS.items():
        watched = Watched(config)
        read(shard, watched)  # type: ignore[arg-type]
        known = {field for field in PoolConfig.__dataclass_fields__ if _decides(field, output)}
        assert watched.read <= known, f"{what}: reads {watched.read - known}, which does not decide {output}"
        if what == "texts":
            assert {"key", "texts", "lang", *(() if is_tar else ("where",))} <= watched.read


def _decides(field: str, output: str) -> bool:
    """Return whether a field of [pool] decides an output; `deciding` leaves out unset ones."""
    marks = get_args(get_type_hints(PoolConfig, include_extras=True)[field])
    mark = next((mark for mark in marks if isinstance(mark, Decides)), Decides("pool"))
    return mark.covers(output)


# --- marks ------------------------------------------------------------------------------------------------------------


def test_mark_of_a_stage_covers_its_parts_and_a_part_its_stage() -> None:
    assert Decides("match").covers("match.texts")
    assert Decides("match").covers("match")
    assert Decides("match.counts").covers("match")
    assert not Decides("match.counts").covers("match.texts")
    assert not Decides("match").covers("matcher")
    assert not Decides().covers("match")


def test_parts_that_marks_name_are_those_of_the_page() -> None:
    named = set()
    configs = [Recipe]
    for config in configs:
        for hint in get_type_hints(config, include_extras=True).values():
            configs += [option for option in (hint, *get_args(hint)) if _is_config(option) and option not in configs]
            marks = [mark for mark in get_args(hint) if isinstance(mark, Decides)]
            named |= {output for mark in marks for output in mark.outputs if "." in output}
    table = re.search(r"\| stage \| part \| is \|\n.*?\n(.*?)\n\n", DESIGN.read_text(), re.DOTALL)
    assert table
    page = {f"{stage}.{part}" for stage, part in re.findall(r"^\| (\w+) \| (\w+) \|", table[1], re.MULTILINE)}
    assert named <= page
    assert page - named == {"pool.index", "match.texts", "metadata.lists", "curate.list"}, "parts that are asked for"


def _is_config(option: object) -> bool:
    return isinstance(option, type) and issubclass(option, Config)


def test_section_within_a_section_has_marks_of_its_own() -> None:
    recipe = load_recipe(
        {"pool": {"path": "p"}, "train": {"pool": {"path": "q", "key": "uid"}}, "balance": {"tail_fraction": 0.1}}
    )
    assert deciding(recipe.train, "train")["pool"] == {"key": "uid"}
