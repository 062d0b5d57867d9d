"""datasets reads the lists and the tars that curate writes."""

from __future__ import annotations

import pytest

from client_tools import installed
from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool
from worldclip.core.execute import LocalExecutor
from worldclip.curate import read_curated

pytestmark = pytest.mark.slow


def test_lists_and_tars_of_curate_load_as_datasets(tmp_path, monkeypatch):
    installed("datasets")
    import datasets

    shards = make_shards(seed=2)
    write_pool(tmp_path / "pool", shards)
    run = tmp_path / "run"
    write_metadata(run, LISTS)
    recipe = make_recipe(tmp_path / "pool", curate={"write": "tars", "samples_per_tar": 7})
    report = run_stages(recipe, run, LocalExecutor(workers=1, quiet=True))
    rows = [row for name in sorted(shards) for row in read_curated(run, name).to_pylist()]

    cache = str(tmp_path / "cache")
    lists = datasets.load_dataset(str(run / "curate"), split="train", cache_dir=cache)
    assert sorted((row["key"], row["text"]) for row in lists) == sorted((row["key"], row["text"]) for row in rows)

    tars = datasets.load_dataset(str(run / "curate" / "tars"), split="train", cache_dir=cache)
    assert len(tars) == report["curate"]["tars"]["samples"]
    assert {row["key"] for row in tars["json"]} == {row["key"] for row in rows}
