"""The folder of the explorer: its numbers are the run's, and nothing in it comes from outside the folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from worldclip.cli import main
from worldclip.core import artifacts
from worldclip.core.errors import UserError
from worldclip.curate import read_curated
from worldclip.tools.estimate import estimate
from worldclip.web.explorer.explore import explore
from worldclip.web.explorer.lists import max_entries_per_list


def read_chunk(folder: Path, name: str):
    text = (folder / "data" / f"{name}.js").read_text(encoding="utf-8")
    return json.loads(re.fullmatch(rf'receiveChunk\("{name}",(.*)\)\n', text, re.DOTALL)[1])


def test_every_value_of_the_slider_is_what_estimate_gives(explored):
    slider, run = read_chunk(explored.folder, "slider"), read_chunk(explored.folder, "run")
    assert slider["key"] == "tail_fraction"
    assert len(slider["values"]) == 41
    assert slider["values"][slider["own"]] == 0.3
    candidates = estimate(explored.run, tail_fractions=slider["values"])["candidates"]
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


def test_denied_keys_stand_nowhere_in_the_folder(explored, tmp_path):
    run, denied = tmp_path / "run", tmp_path / "denied.parquet"
    pq.write_table(pa.table({"key": ["00007", "<i>1"]}), denied)
    recipe = str(explored.run / "recipe.toml")
    setting = f'pool.deny_keys=["{denied}"]'
    assert main(["run", recipe, "--out", str(run), "--until", "curate", "--set", setting, "--quiet"]) == 0
    explore(run, tmp_path / "explorer")
    for path in (tmp_path / "explorer/data").rglob("*.js"):
        content = path.read_text(encoding="utf-8")
        assert '"00007"' not in content, path
        assert "<i>1" not in content, path


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


def test_large_lists_are_cut_so_that_the_folder_stays_bounded():
    lists = {"en": 500_000, "de": 200_000, "sw": 1000}
    assert max_entries_per_list(lists, 10**6) == 500_000
    assert max_entries_per_list(lists, 201_000) == 100_000
    assert max_entries_per_list({}, 5) == 0
