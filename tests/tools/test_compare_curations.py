"""`compare` of two curated lists against sets: which keys only one run keeps."""

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from plain_recipe import make_recipe, make_run, make_shards, run_stages
from worldclip import curate
from worldclip.cli import main

SHARDS = make_shards(seed=3, num_shards=3, num_samples=40)


@pytest.fixture(scope="module", params=["one", "all"])
def runs(request, tmp_path_factory) -> tuple[Path, Path]:
    """Two curations of one pool; do not change them."""
    folder = tmp_path_factory.mktemp("curations")
    shared = {"text_policy": request.param}
    first = make_run(folder, SHARDS, balance={"tail_fraction": 0.05}, curate={**shared, "exclude": ["zh"]})
    second = folder / "second"
    recipe = make_recipe(folder / "pool", balance={"tail_fraction": 0.6}, curate={**shared, "exclude": ["ar"]})
    run_stages(recipe, second)
    return first, second


def languages_of(run: Path) -> dict[str, str]:
    """Return key -> language of its first kept text, over all shards."""
    first_texts: dict[str, tuple[int, str]] = {}
    for name in SHARDS:
        for row in curate.read_curated(run, name).to_pylist():
            text = (row["text_idx"], row["lang"])
            first_texts[row["key"]] = min(first_texts.get(row["key"], text), text)
    return {key: lang for key, (_, lang) in first_texts.items()}


def test_counts_and_keys_are_those_of_the_lists_as_sets(runs, tmp_path, capsys):
    first, second = map(languages_of, runs)
    out = tmp_path / "differences.parquet"
    assert main(["compare", *map(str, runs), "--out", str(out), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    only_first = first.keys() - second.keys()
    only_second = second.keys() - first.keys()
    assert only_first
    assert only_second
    assert compared["total"] == {
        "first": len(first), "second": len(second), "both": len(first.keys() & second.keys()),
        "only_first": len(only_first), "only_second": len(only_second),
    }  # fmt: skip
    by_language = Counter(first[key] for key in only_first)
    assert {lang: row["only_first"] for lang, row in compared["languages"].items() if row["only_first"]} == by_language
    rows = [(row["key"], row["lang"], row["kept_by"]) for row in pq.read_table(out).to_pylist()]
    expected = [(key, first[key], str(runs[0])) for key in sorted(only_first)]
    assert rows == [*expected, *((key, second[key], str(runs[1])) for key in sorted(only_second))]
    assert {row["key"] for row in compared["examples"][0]} <= only_first
    assert len(compared["examples"][1]) == min(5, len(only_second))
    assert "balance.tail_fraction was 0.05, is 0.6" in compared["changes"]


def test_the_text_has_a_row_per_language_and_says_how_to_ask_why(runs, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    first, second = map(languages_of, runs)
    lines = [line.split() for line in said.splitlines()]
    assert ["all", str(len(first)), str(len(second))] in [line[:3] for line in lines]
    assert lines[:2] == [["first:", str(runs[0])], ["second:", str(runs[1])]]
    assert {line[0] for line in lines[4:8]} <= {"ar", "en", "th", "zh", "all"}
    assert f"What differs from {runs[0]}: balance.tail_fraction was 0.05, is 0.6; " in said
    assert f"  why not {runs[1]}: worldclip inspect {runs[1]} --key KEY\n" in said


def test_runs_with_evaluations_compare_these_unless_curations_are_asked_for(runs, tmp_path, capsys):
    evaluated = tmp_path / "evaluated"
    evaluated.mkdir()
    for path in runs[0].iterdir():
        (evaluated / path.name).symlink_to(path)
    (evaluated / "evaluate").mkdir()
    (evaluated / "evaluate/results.jsonl").write_text("")
    assert main(["compare", str(evaluated), str(runs[1])]) == 2
    assert "results.jsonl is missing" in capsys.readouterr().err
    assert main(["compare", str(evaluated), str(runs[1]), "--curation"]) == 0
    assert f"only {evaluated} keeps" in capsys.readouterr().out


def test_an_unfinished_curation_is_refused(runs, tmp_path, capsys):
    (tmp_path / "recipe.toml").write_text((runs[0] / "recipe.toml").read_text())
    assert main(["compare", str(runs[0]), str(tmp_path), "--curation"]) == 2
    assert f"run first: worldclip curate {tmp_path}" in capsys.readouterr().err
