"""pool.text_weights: which of an image's texts is drawn, by the place of pool.texts that it was read from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_curate import check_report, read_kept

from plain_recipe import LISTS, make_recipe, make_shards, plain_run, run_stages, write_pool
from stages import why_run
from tars import sample, shard_of, write_tar
from worldclip import pool
from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import UserError
from worldclip.curate.candidates import decide_on
from worldclip.curate.curator import Curator
from worldclip.curate.stage import online_work
from worldclip.language.config import open_run
from worldclip.plugins.explorer.pairs import REASON, read_pairs
from worldclip.pool.config import PoolConfig
from worldclip.tools import estimate, inspect_run

SHARDS = make_shards(seed=5)
TEXTS = ["json:alt", "json:caption"]


def recipe_of(pool_folder: Path, weights: list[float] | None, **curate: object):
    return make_recipe(pool_folder, pool={"texts": TEXTS, "text_weights": weights or []}, curate=curate)


@pytest.fixture(scope="module")
def pool_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_pool(folder, SHARDS, by_place=True)
    return folder


@pytest.fixture(scope="module")
def weighed(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of weights 0.3 and 0.7 up to curate."""
    run_dir = tmp_path_factory.mktemp("weighed")
    run_stages(recipe_of(pool_folder, [0.3, 0.7]), run_dir)
    return run_dir


# the stages


@pytest.mark.parametrize("weights", [[0.3, 0.7], [2, 0.001]])
def test_the_stages_agree_with_plain_python(pool_folder, tmp_path, weights):
    recipe = recipe_of(pool_folder, weights, exclude=["th"])
    reports = run_stages(recipe, tmp_path)
    expected = plain_run(SHARDS, recipe)
    for name, rows in expected.kept.items():
        assert read_kept(tmp_path, name) == rows
    check_report(reports["curate"], expected.report)
    estimated = estimate.estimate(tmp_path, tail_fraction=[recipe.balance.tail_fraction])["candidates"][0]["total"]
    assert estimated["expected_pairs"] == pytest.approx(reports["curate"]["total"]["expected_pairs"])


def test_weights_change_no_count_and_redo_curate_alone(pool_folder, weighed, tmp_path):
    unset = recipe_of(pool_folder, None)
    assert "pool.text_weights was" in why_run("curate", unset, weighed)
    assert [why_run(stage, unset, weighed) for stage in ("pool", "match", "balance")] == [None] * 3
    run_stages(unset, tmp_path)
    for name in LISTS:
        assert layout.entry_counts(tmp_path, name).read_bytes() == layout.entry_counts(weighed, name).read_bytes()
    kept = [[read_kept(run, name) for name in SHARDS] for run in (weighed, tmp_path)]
    assert kept[0] != kept[1]


def test_later_epochs_inspect_and_explorer_follow_the_same_draw(weighed):
    run = open_run(weighed)
    work, curator = online_work(run), Curator(weighed)
    explored = read_pairs(run, work, pool.shards(run), sorted(LISTS))
    assert work.text_weights == (0.3, 0.7)
    for shard in layout.matched_shards(weighed):
        _, candidates, keep_prob = work.read(shard)
        for epoch in (0, 3):
            decision = decide_on(candidates, keep_prob, work.config, epoch=epoch)
            key_idx, text_idx = curator.keep(candidates.keys_K, epoch)
            of_key = np.repeat(np.arange(len(candidates.keys_K)), np.diff(candidates.starts_K1))
            assert key_idx.tolist() == of_key[decision.kept_T].tolist()
            assert text_idx.tolist() == candidates.text_idx_T[decision.kept_T].tolist()
        kept = {(key, idx) for key, idx, *_ in read_kept(weighed, shard)}
        for key in candidates.keys_K.to_pylist()[:3]:
            explained = inspect_run.inspect_key(weighed, key)
            found = {(key, text["text_idx"]) for text in explained["texts"] if text["reason"] == "kept"}
            assert found == {pair for pair in kept if pair[0] == key}
            assert {text["place"] for text in explained["texts"]} <= {"json:alt", "json:caption"}
        keys = [key for key in explored.by_key if explored.shard_of_key[key] == shard]
        assert kept == {(key, row[0]) for key in keys for row in explored.by_key[key] if row[REASON] == Reason.KEPT}


# the pool


def test_all_formats_tell_places_alike(tmp_path):
    rows = [{"uid": "a", "alt": ["x", None], "caption": "y"}, {"uid": "b", "alt": [], "caption": None}]
    rows.append({"uid": "c", "alt": ["v"], "caption": "w"})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "0.parquet")
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_tar(tmp_path / "0.tar", [member for row in rows for member in sample(row["uid"], record=row)])
    for name, places in {"0.parquet": ("alt", "caption"), "0.jsonl": ("alt", "caption"), "0.tar": TEXTS}.items():
        config = PoolConfig(path="p", key="json:uid" if name == "0.tar" else "uid", texts=tuple(places))
        texts = pool.read_texts(shard_of(tmp_path / name), config)
        assert texts.text.to_pylist() == ["x", None, "y", None, "v", "w"]
        assert texts.place.tolist() == [0, 0, 1, 1, 0, 1]
        assert texts.place.dtype == np.int16


def test_the_txt_of_a_tar_is_a_place(tmp_path):
    write_tar(tmp_path / "0.tar", [*sample("a", "alt text", {"caption": ["c", "d"]}), *sample("b", "alone", {})])
    config = PoolConfig(path="p", texts=("json:caption", "txt"))
    texts = pool.read_texts(shard_of(tmp_path / "0.tar"), config)
    assert texts.text.to_pylist() == ["c", "d", "alt text", "alone"]
    assert texts.place.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [-1, 2], [0, 1], [1, float("nan")]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(UserError, match=r"pool\.text_weights: must"):
        recipe_of(Path("p"), weights)


def test_weights_need_a_draw():
    with pytest.raises(UserError, match='= "all" draws none'):
        recipe_of(Path("p"), [1, 1], text_policy="all")
