"""Means name their languages; tables in Markdown and LaTeX."""

from __future__ import annotations

import pytest

from worldclip.evaluate import engine, tables
from worldclip.report.results import mean_over_languages
from worlds import WordModel, word_dataset


def record(lang, acc1, **more):
    return {
        "dataset": "animals", "task": "zeroshot_classification", "lang": lang, "n": 10,
        "metrics": {"acc1": acc1, **more}, "chance": {"acc1": 0.001}, "interval_95": {},
    }  # fmt: skip


def test_mean_names_its_languages_and_skips_metrics_that_one_of_them_lacks():
    mean = mean_over_languages([record("en", 0.5, acc5=1.0), record("th", 0.25)])
    assert mean == {"languages": ["en", "th"], "metrics": {"acc1": 0.375}, "chance": {"acc1": pytest.approx(0.001)}}


def test_table_has_languages_mean_and_chance_in_percent():
    table = tables.markdown_table([record("en", 0.5), record("th", 0.25)])
    assert table == (
        "### animals\n\n10 images; percent.\n\n"
        "| language | top-1 |\n"
        "| -------- | ----: |\n"
        "| en       |  50.0 |\n"
        "| th       |  25.0 |\n"
        "| **mean** |  37.5 |\n"
        "| chance   |  0.10 |\n\n"
        "Means are over 2 languages: en th.\n"
    )


def test_of_many_languages_the_table_has_the_best_and_the_weakest():
    records = [record(f"l{i:02}", i / 100) for i in range(40)]
    lines = tables.markdown_table(records).splitlines()
    assert [line.split("|")[1].strip() for line in lines[6:19]] == [
        *("l39", "l38", "l37", "l36", "l35", "30 more", "l04", "l03", "l02", "l01", "l00", "**mean**", "chance")
    ]
    assert lines[17].split("|")[2].strip() == "19.5"
    assert lines[-1] == "The 5 best and 5 weakest of 40 languages; results.csv has all."
    assert "more" not in tables.markdown_table(records[: tables.MAX_LANGUAGES_IN_TEXT])


def test_english_and_local_questions_are_not_averaged():
    records = [
        {"dataset": "cvqa", "task": "choice", "lang": lang, "n": 10, "metrics": {"accuracy": accuracy},
         "chance": {"accuracy": 0.25}, "interval_95": {}}
        for lang, accuracy in (("en", 0.6), ("local", 0.4))
    ]  # fmt: skip
    table = tables.markdown_table(records)
    assert "mean" not in table
    assert "10 questions; percent." in table
    assert "`local`: each question in the language it was written in." in table
    latex = tables.latex_text(records)
    assert r"cvqa & accuracy & en & 60.0 \\" in latex
    assert r"cvqa & accuracy & local & 40.0 \\" in latex


def test_language_without_data_is_absent_not_zero(tmp_path):
    sets = [word_dataset("a", ["cat", "dog"]), word_dataset("b", ["owl"], languages=("en",))]
    records, _, _ = engine.evaluate(WordModel(), {"model": "m", "model_digest": "0"}, sets, [], tmp_path / "r.jsonl")
    first, second = tables.markdown_table(records).split("### ")[1:]
    assert "| de " in first
    assert "| de " not in second
    assert "Means are over 2 languages: en de." in first
    assert "mean" not in second.lower()
