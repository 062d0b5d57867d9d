"""A damaged shard of every format, and a run after each key of [pool] was changed.

What every format gives under every key: tests/test_drawn_recipes.py.
"""

import dataclasses
import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest

from killed import contents
from plain_pool import FLAT, FORMATS, Place, Row, Settings, plain_pool, write_places
from plain_recipe import LISTS, run_stages
from pools import rows_of
from stages import QUIET, run_stage
from worldclip import pool
from worldclip.config import Recipe, load_recipe
from worldclip.core.errors import StageFailed, UserError
from worldclip.pool.config import PoolConfig

RED, CATS, THAI, ZHONG = "the red green house", "cats dog of water", "บ้าน แมว หมา ใหญ่ ทะเล", "照片房子猫狗大山树"
SHARDS: dict[str, list[Row]] = {
    "a": [
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
    "b": [
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
BASE: Settings = {"key": "uid", "texts": ["text"]}
KEY_FILES = {
    "valid.txt": ["k0", "k6", "k9", "k7", "a/r0", "b/r9", "10", "19"],
    "denied.txt": ["k9", "a/r6", "19"],
}


def places_of(name: str) -> list[Place]:
    """Return the rows as a pool of a format."""
    return [Place(name=folder, form=name, shards=[rows]) for folder, rows in SHARDS.items()]


def make_recipe_of(folder: Path, options: Settings, **sections: Any) -> Recipe:
    """Return a recipe for the pool in a folder, next to which the files of keys are."""
    settings = BASE | {"path": str(folder)} | options
    if "place" in settings:
        del settings["path"]
        settings["place"] = [place | {"path": str(folder / place["path"])} for place in settings["place"]]
    if "valid_keys" in settings:
        settings["valid_keys"] = str(folder.parent / settings["valid_keys"])
    settings["deny_keys"] = [str(folder.parent / file) for file in settings.get("deny_keys", [])]
    sections = {"languages": {"codes": list(LISTS)}, "balance": {"tail_fraction": 0.3}, **sections}
    return load_recipe({"pool": settings, **sections})


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_shard_stops_the_pool_or_is_skipped(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    packs = form.suffix not in (".tar", ".parquet")
    folder = tmp_path / "pool"
    damaged = f"c/0{form.suffix}{'.gz' if packs else ''}"
    write_places(folder, places_of(name))
    whole = (folder / f"a/0{form.suffix}").read_bytes()
    (folder / "c").mkdir()
    (folder / damaged).write_bytes((gzip.compress(whole) if packs else whole)[:100])
    options = {"key": "member", "texts": []} if form.members else {}
    with pytest.raises(StageFailed) as failed:
        run_stages(make_recipe_of(folder, options), tmp_path / "stopped", stages="pool")
    assert list(failed.value.failures) == [damaged]
    recipe = make_recipe_of(folder, options | {"broken_shards": "skip"})
    report = run_stages(recipe, tmp_path / "run", stages="pool")["pool"]
    assert list(report["skipped"]) == [damaged]
    for shard, expected in plain_pool(places_of(name), BASE | options | {"path": "."}).items():
        texts = pool.read_pairs(tmp_path / "run", shard, pool.EVERY_KEY)
        assert [row[0] for row in rows_of(texts)] == [text.key for sample in expected.samples for text in sample]
    for shard in SHARDS:
        (folder / f"{shard}/0{form.suffix}").unlink()
    with pytest.raises(StageFailed):  # nothing would be left
        run_stages(recipe, tmp_path / "empty", stages="pool")


# --- a changed key of [pool] ------------------------------------------------------------------------------------------

TWO: Settings = {"texts": ["text", "texts"]}
PLACES = [
    {"place": [{"path": "a", "where": [["state", "=", "good"]], "lang": "lang"}, {"path": "b", "key": "other"}]},
    {"place": [{"path": "b", "where": [["state", "=", "good"]], "lang": "lang"}, {"path": "a", "key": "other"}]},
]
MISSPELT = [{"other": "uid", "uid": "other"}.get(name, name) for name in (*FLAT, "photo")]
# key -> its settings before and after; "path" is a pool in another folder
CHANGES: dict[str, tuple[Settings, Settings]] = {
    "path": ({}, {}),
    "place": (PLACES[0], PLACES[1]),
    "columns": ({"columns": MISSPELT}, {"columns": [*FLAT, "photo"]}),
    "key": ({}, {"key": "other"}),
    "texts": ({}, TWO),
    "text_weights": (TWO, TWO | {"text_weights": [3.0, 1.0]}),
    "lang": ({}, {"lang": "lang"}),
    "image_field": ({}, {"image_field": "photo"}),
    "where": ({}, {"where": [["state", "=", "good"]]}),
    "valid_keys": ({}, {"valid_keys": "valid.txt"}),
    "deny_keys": ({"deny_keys": ["denied.txt"]}, {}),
    "broken_shards": ({}, {"broken_shards": "skip"}),
}


def test_every_key_of_the_pool_is_changed() -> None:
    assert {*CHANGES} == {*PoolConfig.__dataclass_fields__} - {"build", "parts"}  # a builder draws its own rows


@pytest.mark.parametrize("key", CHANGES)
def test_run_after_a_changed_key_equals_a_fresh_run(key: str, tmp_path: Path) -> None:
    name = "CSV" if key == "columns" else "Parquet with paths"
    write_places(tmp_path / "pool", places_of(name), is_bare=key == "columns")
    for file, keys in KEY_FILES.items():
        (tmp_path / file).write_text("\n".join(keys))
    (tmp_path / "zh.txt").write_text("\n".join(LISTS["zh"]))
    metadata = {"sources": ["number", "pool"], "lists": {"zh": str(tmp_path / "zh.txt")}, "pool_min_count": 1}
    sections = {"metadata": metadata, "languages": {"codes": ["en", "zh"]}, "balance": {"tail_fraction": 0.5}}
    before, after = (make_recipe_of(tmp_path / "pool", options, **sections) for options in CHANGES[key])
    if key == "path":
        write_places(tmp_path / "elsewhere", [Place(name=".", form=name, shards=[SHARDS["b"][2:]])])
        after = dataclasses.replace(after, pool=dataclasses.replace(after.pool, path=str(tmp_path / "elsewhere")))
    assert getattr(before.pool, key) != getattr(after.pool, key)
    run_all(before, tmp_path / "run")
    old = contents(tmp_path / "run", ["recipe.toml", "listed_at.json"])
    (tmp_path / "run/recipe.toml").unlink()  # `run_all` writes the new one; the data card quotes it
    if key == "path":
        with pytest.raises(UserError, match=r"was made from .*start anew with --from pool"):
            run_all(after, tmp_path / "run")
        shutil.rmtree(tmp_path / "run/pool")
    run_all(after, tmp_path / "run")
    run_all(after, tmp_path / "fresh")
    new, fresh = (contents(tmp_path / folder, ["recipe.toml", "listed_at.json"]) for folder in ("run", "fresh"))
    assert new != old, f"the change of pool.{key} changes nothing"
    assert sorted(new) == sorted(fresh)
    assert [file for file in new if new[file] != fresh[file]] == []


def run_all(recipe: Recipe, run_dir: Path) -> None:
    for stage in ("pool", "metadata", "match", "balance", "curate"):
        run_stage(stage, recipe, run_dir, QUIET)
