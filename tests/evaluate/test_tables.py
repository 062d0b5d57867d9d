"""Means name their languages; tables in Markdown and CSV."""

from __future__ import annotations

import csv
import io

import pytest

from evaluated import evaluated, record
from worldclip.contracts.records import read_results
from worldclip.evaluate import tables
from worldclip.report.results import mean_over_languages
from worlds import WordModel, word_dataset

CHANCE = {"acc1": 0.001}


@pytest.fixture
def records(tmp_path):
    folder = evaluated(WordModel(), tmp_path, word_dataset("a_b", ["cat", "dog"]), model_digest="0123456789abcdef")
    return read_results(folder / "results.jsonl")


@pytest.mark.parametrize("few_classes", [0, 1])
def test_metrics_and_chances_that_one_language_lacks_have_no_mean(few_classes):
    records = [record(lang, chance={"acc1": 0.1, "acc5": 0.5}, acc1=0.5, acc5=1.0) for lang in ("en", "th")]
    records[few_classes] = record("sw", chance={"acc1": 0.3}, acc1=0.25)
    mean = mean_over_languages(records)
    langs = [of_lang["lang"] for of_lang in records]
    assert mean == {"languages": langs, "metrics": {"acc1": 0.375}, "chance": {"acc1": pytest.approx(0.2)}}
    assert "sw" in tables.markdown_table(records)


def test_table_has_languages_mean_and_chance_in_percent():
    table = tables.markdown_table([record("en", chance=CHANCE, acc1=0.5), record("th", chance=CHANCE, acc1=0.25)])
    assert table == (
        "### a\n\n10 images; percent.\n\n"
        "| language | top-1 |\n"
        "| -------- | ----: |\n"
        "| en       |  50.0 |\n"
        "| th       |  25.0 |\n"
        "| **mean** |  37.5 |\n"
        "| chance   |  0.10 |\n\n"
        "Means are over 2 languages: en th.\n"
    )


def test_of_many_languages_the_table_has_the_best_and_the_weakest():
    records = [record(f"l{i:02}", acc1=i / 100) for i in range(40)]
    lines = tables.markdown_table(records).splitlines()
    first_column = " ".join(line.split("|")[1].strip() for line in lines[6:19])
    assert first_column == "l39 l38 l37 l36 l35 30 more l04 l03 l02 l01 l00 **mean** chance"
    assert lines[17].split("|")[2].strip() == "19.5"
    assert lines[-1] == "The 5 best and 5 weakest of 40 languages; results.csv has all."
    assert "more" not in tables.markdown_table(records[: tables.MAX_LANGUAGES_IN_TEXT])


def test_languages_at_chance_are_named():
    bounds = {"en": (0.6, 0.8), "de": (0.45, 0.6), "th": (0.3, 0.49)}
    chance = {"acc1": 0.5}
    records = [record(lang, chance=chance, intervals={"acc1": bounds[lang]}, acc1=0.5) for lang in bounds]
    table = tables.markdown_table(records)
    assert "Not above chance (every 95% interval begins at or below what guessing gives): de, th.\n" in table
    assert "Not above chance" not in tables.markdown_table(records[:1])


def test_english_and_local_questions_are_not_averaged():
    answers = {"en": 0.6, "local": 0.4}
    records = [record(lang, "cvqa", "choice", accuracy=accuracy) for lang, accuracy in answers.items()]
    table = tables.markdown_table(records)
    assert "mean" not in table
    assert "10 questions; percent." in table
    assert "`local`: each question in the language it was written in." in table


def test_language_without_data_is_absent_not_zero(tmp_path):
    sets = [word_dataset("a", ["cat", "dog"]), word_dataset("b", ["owl"], languages=("en",))]
    records = read_results(evaluated(WordModel(), tmp_path, *sets) / "results.jsonl")
    first, second = tables.markdown_table(records).split("### ")[1:]
    assert "| de " in first
    assert "| de " not in second
    assert "Means are over 2 languages: en de." in first
    assert "mean" not in second.lower()


def test_csv_has_a_row_per_metric_and_part(records):
    rows = list(csv.DictReader(io.StringIO(tables.csv_text("mine", records))))
    first = rows[0]
    assert (first["dataset"], first["lang"], first["metric"], float(first["value"])) == ("a_b", "en", "acc1", 1.0)
    assert (float(first["low"]), float(first["high"]), first["n"]) == (pytest.approx(0.3424, abs=1e-4), 1.0, "2")
    assert float(first["chance"]) == pytest.approx(1 / 22)
    assert {row["part"] for row in rows} == {"", "first"}
    assert len([row for row in rows if row["lang"] == "de" and row["task"] == "image_text_retrieval"]) == 6
