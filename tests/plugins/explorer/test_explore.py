"""The folder of the explorer: its numbers are the run's, and nothing in it comes from outside the folder."""

from __future__ import annotations

import errno
import itertools
import json
import platform
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plain_recipe import make_run, make_shards
from worldclip.contracts import schemas
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.core.job import RunLock
from worldclip.curate import read_curated
from worldclip.plugins.explorer.explore import explore
from worldclip.plugins.explorer.lists import max_entries_per_list
from worldclip.plugins.explorer.slider import slider_record
from worldclip.tools.estimate import estimate
from worldclip.tools.inspect_run import inspect_key


def read_chunk(folder: Path, name: str):
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(rf'receiveChunk\("{name}",(.*)\)\n', text, re.DOTALL)[1])


def test_every_value_of_the_slider_is_what_estimate_gives(explored):
    slider, run = read_chunk(explored.folder, "slider"), read_chunk(explored.folder, "run")
    assert slider["key"] == "tail_fraction"
    assert len(slider["values"]) == 41
    assert slider["values"][slider["own"]] == 0.3
    candidates = estimate(explored.run, tail_fraction=slider["values"])["candidates"]
    for i, candidate in enumerate(candidates):
        assert slider["total"][i] == candidate["total"]["expected_pairs"]
        for number, language in enumerate(run["languages"]):
            row = candidate["languages"][language["code"]]
            assert slider["expected"][number][i] == row["expected_pairs"]
            if language["list"] >= 0:
                assert slider["thresholds"][language["list"]][i] == row["threshold"]


def test_languages_and_reasons_are_those_of_the_report(explored):
    run = read_chunk(explored.folder, "run")
    report = artifacts.read_json(explored.run / "curate/report.json")
    names = [name for name, *_ in run["reasons"]]
    for language in run["languages"]:
        counts = dict(zip(names, language["counts"], strict=True))
        row = report["languages"][language["code"]]
        assert counts.pop("kept") == row["pairs_out"]
        assert counts == {name: row[name] for name in counts}


def test_examples_are_kept_exactly_where_the_run_kept_them(explored):
    kept = {
        (row["key"], row["text_idx"]): row["keep_prob"]
        for path in sorted((explored.run / "curate").glob("*.parquet"))
        for row in read_curated(explored.run, path.name.removesuffix(".parquet")).to_pylist()
    }
    run = read_chunk(explored.folder, "run")
    is_kept = [name for name, *_ in run["reasons"]].index("kept")
    seen = set()
    for number in range(len(run["languages"])):
        for key, text_idx, _, _, reason, keep_prob, coin, *_ in read_chunk(explored.folder, f"examples/{number}")[
            "examples"
        ]:
            seen.add(reason)
            if keep_prob is None:  # a text without a match
                assert run["reasons"][reason][0] in ("no_match", "no_language", "no_text", "bad_pair")
                continue
            assert ((key, text_idx) in kept) == (reason == is_kept) == (coin < keep_prob)
            assert kept.get((key, text_idx), keep_prob) == keep_prob
    assert len(seen) >= 3


def test_pictures_are_images_and_a_file_that_is_none_is_left_out(explored):
    files = {path.name for path in explored.folder.rglob("pictures/**/*.png")}
    examples = [row for path in explored.folder.glob("data/examples/*.js")
                for row in read_chunk(explored.folder, f"examples/{path.stem}")["examples"]]  # fmt: skip
    pictures = {row[0]: row[-1] for row in examples}
    assert pictures["<i>0"] is None
    assert Path(pictures["<i>1"]).name in files


def test_denied_and_removed_keys_stand_nowhere_but_their_rules_do(tmp_path):
    out = tmp_path / "explorer"
    shards = make_shards(seed=5, num_shards=2, num_samples=25)
    keys = sorted({f"{Path(name).parent}/{stem}" for name, samples in shards.items() for stem, _ in samples})
    denied, removed, valid = keys[:5], keys[5:10], keys[10:]
    pq.write_table(pa.table({"key": denied}), tmp_path / "denied.parquet")
    artifacts.write_table(tmp_path / "valid_keys.parquet", pa.table({"key": [*denied, *valid]}), schemas.VALID_KEYS)
    rows = [{"key": key, "shard": "0", "rule": "near_duplicate"} for key in removed]
    table = pa.Table.from_pylist([{**dict.fromkeys(schemas.REMOVED.names), **row} for row in rows], schemas.REMOVED)
    artifacts.write_table(tmp_path / "removed.parquet", table, schemas.REMOVED)
    lists = {"deny_keys": [str(tmp_path / "denied.parquet")], "valid_keys": str(tmp_path / "valid_keys.parquet")}
    explore(make_run(tmp_path, shards, pool=lists), out)
    content = "".join(path.read_text(encoding="utf-8") for path in (out / "data").rglob("*.js"))
    assert [key for key in keys if f'"{key}"' in content] == valid
    assert str(tmp_path) not in content + (out / "manifest.json").read_text(encoding="utf-8")
    assert read_chunk(out, "checked")["rules"] == [["near_duplicate", 5]]


def test_language_without_a_pair_has_no_row(tmp_path):
    run = make_run(tmp_path, {"0/0.tar": [("a", ["the old green tree on the mountain by the water"])]})
    explore(run, tmp_path / "explorer")
    assert [row["code"] for row in read_chunk(tmp_path / "explorer", "run")["languages"]] == ["en"]


def test_a_folder_of_others_is_refused_and_an_older_explorer_replaced(explored, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no explorer"):
        explore(explored.run, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    out = tmp_path / "explorer"
    explore(explored.run, out)
    (out / "data/old.js").write_text("")
    again = explore(explored.run, out)
    assert (out / "data/old.js").exists()  # nothing has changed
    manifest = artifacts.read_json(out / "manifest.json")
    artifacts.write_json(out / "manifest.json", {**manifest, "inputs": {}})
    assert explore(explored.run, out) == again
    assert not (out / "data/old.js").exists()


@pytest.mark.parametrize(
    "curate", [{"text_policy": "one"}, {"text_policy": "all"}, {"text_policy": "all", "max_pairs": 20}]
)
def test_every_key_is_explained_as_inspect_explains_it(curate, tmp_path):
    shards = make_shards(seed=5, num_shards=2, num_samples=25)
    run = make_run(tmp_path, shards, curate={**curate, "exclude": ["ar"]})
    explore(run, tmp_path / "explorer")
    reasons = [name for name, *_ in read_chunk(tmp_path / "explorer", "run")["reasons"]]
    chunks = [
        read_chunk(tmp_path / "explorer", f"pairs/{path.stem}") for path in (tmp_path / "explorer/data/pairs").iterdir()
    ]
    seen = set()
    for key, _, texts in itertools.chain(*chunks):
        explained = inspect_key(run, key)["texts"]
        assert len(texts) == len(explained)
        for (text_idx, text, label, _, _, reason, keep_prob), wanted in zip(texts, explained, strict=True):
            name = "not_drawn" if reason < 0 else reasons[reason]
            seen.add(name)
            assert (text_idx, text, name) == (wanted["text_idx"], wanted["text"], wanted["reason"])
            assert keep_prob == wanted.get("keep_prob")
            assert label == wanted.get("lid_label", label)
    assert {"duplicate", "no_language", "excluded", "kept", "sampled_out"} <= seen
    assert ("not_drawn" in seen) == (curate["text_policy"] == "one")


def test_a_recipe_with_an_english_threshold_has_a_slider_on_it(explored, tmp_path):
    for name in ("match", "metadata"):
        (tmp_path / name).symlink_to(explored.run / name)
    recipe = (explored.run / "recipe.toml").read_text(encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(
        recipe.replace("tail_fraction = 0.3", "english_threshold = 12"), encoding="utf-8"
    )
    slider = slider_record(tmp_path, ["en", "th"], ["en", "th"])
    assert slider["key"] == "english_threshold"
    assert slider["values"][slider["own"]] == 12
    candidates = estimate(tmp_path, threshold=slider["values"])["candidates"]
    assert slider["total"] == [candidate["total"]["expected_pairs"] for candidate in candidates]
    assert slider["thresholds"][0] == slider["values"]


def test_large_lists_are_cut_so_that_the_folder_stays_bounded():
    lists = {"en": 500_000, "de": 200_000, "sw": 1000}
    assert max_entries_per_list(lists, 10**6) == 500_000
    assert max_entries_per_list(lists, 201_000) == 100_000
    assert max_entries_per_list({}, 5) == 0


def test_two_explorers_of_one_folder_are_never_at_work(explored, tmp_path):
    out = tmp_path / "pages"
    with (
        RunLock(out.with_name(f".pages.{platform.node()}.tmp")),
        pytest.raises(UserError, match="is in use by process"),
    ):
        explore(explored.run, out)
    assert not out.exists()
    explore(explored.run, out)
    assert (out / "index.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]
    assert not (out / ".lock").exists()


def test_the_working_directory_is_not_replaced(explored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="name a folder in the working directory"):
        explore(explored.run, Path())


def test_a_full_disk_is_named_and_leaves_nothing(explored, tmp_path, monkeypatch):
    def fill(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worldclip.plugins.explorer.explore._write", fill)
    with pytest.raises(OSError, match="No space left") as caught:
        explore(explored.run, tmp_path / "pages")
    assert str(tmp_path / "pages") in str(caught.value)
    assert list(tmp_path.iterdir()) == []
