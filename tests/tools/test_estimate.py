"""Estimates are what balance and curate then give."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from plain_recipe import make_run, make_shards, run_stages
from worldclip.balance.config import BalanceConfig
from worldclip.cli import main
from worldclip.config import load_recipe
from worldclip.core.errors import UserError
from worldclip.core.settings import to_toml
from worldclip.tools.estimate import estimate, to_text


@pytest.fixture(scope="module", params=["one", "all"])
def run(request, tmp_path_factory) -> Path:
    """A run after match; do not change it."""
    curate = {"text_policy": request.param, "exclude": ["ar"]}
    folder, shards = tmp_path_factory.mktemp("estimated"), make_shards(seed=3)
    return make_run(folder, shards, "pool match", balance={"tail_fraction": 0.05}, curate=curate)


def with_balance(run: Path, folder: Path, **balance: Any) -> Path:
    """Return a copy of the run, in `folder`, whose recipe has these keys of [balance] alone."""
    copy = shutil.copytree(run, folder / "run")
    recipe = dataclasses.replace(load_recipe(run), balance=BalanceConfig(**balance))
    (copy / "recipe.toml").write_text(to_toml(recipe), "utf-8")
    return Path(copy)


@pytest.mark.parametrize("values", [{"tail_fraction": 0.2}, {"english_threshold": 6}, {"tail_fraction": 0.05}])
def test_an_estimate_is_what_curate_reports_later(run, values, tmp_path):
    key, value = next(iter(values.items()))
    given = {"threshold" if key == "english_threshold" else key: [value]}
    found = estimate(run, **given)
    candidate = found["candidates"][0]
    copy = with_balance(run, tmp_path, **values)
    reports = run_stages(load_recipe(copy), copy, stages="balance curate")
    total = reports["curate"]["total"]
    assert found["text_policy"] == load_recipe(run).curate.text_policy
    assert candidate["total"]["pairs_in"] == total["pairs_in"]
    assert candidate["total"]["expected_pairs"] == pytest.approx(total["expected_pairs"])
    assert candidate["total"]["pairs_matched"] == total["sampled_out"] + total["pairs_out"]
    assert candidate["languages"].keys() == reports["curate"]["languages"].keys()
    for lang, row in candidate["languages"].items():
        assert row["pairs_in"] == reports["curate"]["languages"][lang]["pairs_in"]
        if lang == "und":
            continue
        assert row["threshold"] == reports["balance"]["lists"][lang]["threshold"]
        assert row["tail_fraction"] == reports["balance"]["lists"][lang]["tail_fraction"]
        assert row["expected_pairs"] == pytest.approx(reports["curate"]["languages"][lang]["expected_pairs"])


def test_without_values_the_recipe_itself_is_estimated_and_nothing_is_written(run):
    before = sorted(run.rglob("*"))
    found = estimate(run)
    assert [candidate["tail_fraction"] for candidate in found["candidates"]] == [0.05]
    assert sorted(run.rglob("*")) == before


def test_values_out_of_range_are_reported_together(run):
    with pytest.raises(UserError) as raised:
        estimate(run, threshold=[0], tail_fraction=[2.0])
    assert len(raised.value.problems) == 2


def test_an_unmatched_run_says_what_to_run_first(run, tmp_path):
    (tmp_path / "recipe.toml").write_text((run / "recipe.toml").read_text())
    with pytest.raises(UserError, match="match is not finished"):
        estimate(tmp_path)


def test_text_shows_totals_and_largest_languages(run):
    found = estimate(run, tail_fraction=[0.1], threshold=[1000])
    text = to_text(found, num_languages=2)
    unit = {"one": "images", "all": "pairs"}[found["text_policy"]]
    total = found["candidates"][1]["total"]
    assert f"tail_fraction = 0.1: {total['expected_pairs']:,.0f} of {total['pairs_in']:,} {unit} expected" in text
    assert "english_threshold = 1,000:" in text
    assert "warning: no entry of list en reaches" in text
    assert f"{len(found['candidates'][1]['languages']) - 2} more" in text


def test_the_command_takes_commas_and_blanks(run, capsys):
    assert main(["estimate", str(run), "--threshold", "5,1000", "20", "--tail-fraction", "0.1,0.2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["candidates"]
    assert [row["english_threshold"] for row in found] == [5, 1000, 20, None, None]
    assert [row["tail_fraction"] for row in found] == [None, None, None, 0.1, 0.2]
    for flag, text in (("--threshold", "many"), ("--tail-fraction", "nan"), ("--tail-fraction", "-inf")):
        assert main(["estimate", str(run), f"{flag}={text}"]) == 2
        assert "must be" in capsys.readouterr().err
