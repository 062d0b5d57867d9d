"""results.csv, table.tex, and the JSON files that `clip_benchmark build` reads."""

from __future__ import annotations

import csv
import io
import sys

import pytest

from worldclip.evaluate import engine, tables
from worlds import WordModel, word_dataset


@pytest.fixture
def records(tmp_path):
    model_id = {"model": "made up", "model_digest": "0123456789abcdef"}
    datasets = [word_dataset("a_b", ["cat", "dog"])]
    records, _, _ = engine.evaluate(WordModel(), model_id, datasets, [], tmp_path / "r.jsonl")
    return records


def test_csv_has_a_row_per_metric_and_part(records):
    rows = list(csv.DictReader(io.StringIO(tables.csv_text("mine", records))))
    first = rows[0]
    assert (first["dataset"], first["lang"], first["metric"], float(first["value"])) == ("a_b", "en", "acc1", 1.0)
    assert (float(first["low"]), float(first["high"]), first["n"]) == (1.0, 1.0, "2")
    assert float(first["chance"]) == pytest.approx(1 / 22)
    assert {row["part"] for row in rows} == {"", "first"}
    assert len([row for row in rows if row["lang"] == "de" and row["task"] == "image_text_retrieval"]) == 6


def test_latex_table_has_means_with_their_number_of_languages(records):
    lines = tables.latex_text(records).splitlines()
    assert lines[0] == r"\begin{tabular}{llrr}"
    assert r"a\_b & acc1 & 2 & 100.0 \\" in lines
    assert r"a\_b & image\_retrieval\_recall@1 & 2 & 100.0 \\" in lines


def test_clip_benchmark_builds_its_table_from_our_files(records, tmp_path, monkeypatch):
    cli = pytest.importorskip("clip_benchmark.cli")
    tables.write_clip_benchmark(tmp_path / "json", records)
    arguments = ["clip_benchmark", "build", str(tmp_path / "json"), "--output", str(tmp_path / "benchmark.csv")]
    monkeypatch.setattr(sys, "argv", arguments)
    cli.main()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "benchmark.csv").read_text())))
    by_task = {(row["dataset"], row["language"], row["task"]): row for row in rows}
    assert set(by_task) == {
        ("a_b", lang, task) for lang in ("en", "de") for task in ("zeroshot_classification", "zeroshot_retrieval")
    }
    row = by_task["a_b", "de", "zeroshot_classification"]
    assert (float(row["acc1"]), row["model_fullname"]) == (1.0, "made up 0123456789abcdef")
    assert float(by_task["a_b", "en", "zeroshot_retrieval"]["text_retrieval_recall@1"]) == 1.0
