"""datasets and mlcroissant read what a folder holds now: of a second run, curated again, with an empty shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from plain_recipe import make_recipe, make_run, make_shards, run_stages
from pools import write_table
from worldclip.contracts import layout
from worldclip.curate import read_curated
from worldclip.plugins.publish.publish import publish

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

TEXTS = ["the old green tree on the mountain by the water", "unmatched words everywhere without any listed thing"]
KEEP_ALL = {"balance": {"tail_fraction": 1.0}}
PLACES = ("curate", "curate/tars", "publish list", "publish tars")


def kept_keys(run: Path) -> list[str]:
    return [key for name in layout.matched_shards(run) for key in read_curated(run, name)["key"].to_pylist()]


def load(folder: Path, cache: Path) -> Any:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache))


def loaded_keys(run: Path, place: str, cache: Path) -> list[str]:
    """Return the keys that datasets reads at a place of the run."""
    folder, _, data = place.partition(" ")
    if data:
        publish.function(run, "me/pairs", data=data, dry_run=True)
    rows = load(run / folder, cache)
    return [row["key"] for row in rows["json"]] if place.endswith("tars") else rows["key"]


@pytest.mark.parametrize("place", PLACES)
def test_another_run_and_one_that_is_curated_again_have_their_own_rows_in_one_cache(place, tmp_path) -> None:
    denied = tmp_path / "denied.parquet"
    options = {"curate": {"write": "tars", "samples_per_tar": 7}, "pool": {"deny_keys": [str(denied)]}}
    taken_down: list[str] = []
    for name, seed in (("first", 2), ("second", 3), ("second", 3)):
        write_table(denied, {"key": pa.array(taken_down, pa.string())})
        run = make_run(tmp_path / name, make_shards(seed=seed), **options)
        kept = kept_keys(run)
        assert sorted(loaded_keys(run, place, tmp_path / "cache")) == sorted(kept)
        assert {*kept}.isdisjoint(taken_down)
        taken_down = kept[::2]


def test_tables_and_lists_of_a_parquet_pool_load_apart_and_anew(tmp_path) -> None:
    options = {"pool": {"key": "uid", "texts": ["text"]}, "curate": {"write": "parquet"}, **KEEP_ALL}
    run = tmp_path / "run"
    for size in (5, 3):
        keys = [f"{i:03}" for i in range(size)]
        columns = {"uid": keys, "url": [f"http://x/{key}" for key in keys], "text": TEXTS[:1] * size}
        write_table(tmp_path / "pool/part.parquet", columns)
        run_stages(make_recipe(tmp_path / "pool", **options), run)
        assert load(run / "curate", tmp_path / "cache")["key"] == keys
        assert load(run / "curate/parquet", tmp_path / "cache")["uid"] == keys


@pytest.mark.parametrize("num_unmatched", [0, 1, 2])
def test_a_shard_of_which_nothing_is_kept_does_not_matter(num_unmatched, tmp_path) -> None:
    """The shard without rows comes first, between the others, or last."""
    order = [0, 0]
    order.insert(num_unmatched, 1)
    shards = {f"{n:05}.tar": [(f"{n}{i}", [TEXTS[kind]]) for i in range(3)] for n, kind in enumerate(order)}
    run = make_run(tmp_path, shards, **KEEP_ALL)
    expected = [f"{shard}{i}" for shard in range(3) if not order[shard] for i in range(3)]
    assert kept_keys(run) == expected
    assert loaded_keys(run, "curate", tmp_path / "cache") == expected
    assert loaded_keys(run, "publish list", tmp_path / "cache") == expected
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    record = mlcroissant.Dataset(jsonld=str(run / "publish/croissant.json"), mapping={"repo": str(run / "publish")})
    assert [row["pairs/key"].decode() for row in record.records("pairs")] == expected
