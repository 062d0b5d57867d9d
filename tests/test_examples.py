"""The examples do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from plain_recipe import LISTS, make_recipe, make_shards, run_stages, write_metadata, write_pool

from worldclip import curate

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_webdataset_pipeline_keeps_the_offline_list(tmp_path, policy):
    webdataset = pytest.importorskip("webdataset")
    spec = importlib.util.spec_from_file_location("curated", EXAMPLES / "open_clip" / "curated.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    shards = {Path(name).name: samples for name, samples in make_shards(seed=6, num_shards=2).items()}
    # a repeated or broken record is the pool reader's business, not the example's
    shards = {
        name: [s for s in dict(samples[:-2]).items() if isinstance(s[1], list)] for name, samples in shards.items()
    }
    write_pool(tmp_path / "pool", shards)
    run = tmp_path / "run"
    write_metadata(run, LISTS)
    run_stages(make_recipe(tmp_path / "pool", curate={"text_policy": policy}), run)
    offline = [row for name in sorted(shards) for row in curate.read_curated(run, name).to_pylist()]

    urls = [str(tmp_path / "pool" / name) for name in sorted(shards)]
    found = {}
    for epoch in (0, 1):
        stage = example.curated(run, lambda epoch=epoch: epoch)
        data = webdataset.WebDataset(urls, shardshuffle=False).compose(stage)
        found[epoch] = [(sample["__key__"], sample["txt"].decode(), sample["jpg"]) for sample in data]
    assert found[0] == [(row["key"], row["text"], b"image of " + row["key"].encode()) for row in offline]
    assert found[1] != found[0]
