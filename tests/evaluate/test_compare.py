"""Evaluations side by side, with made-up models of which one knows less; tables in Markdown and CSV."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from evaluated import Forgetful, evaluated, record
from toy import markdown_rows
from worldclip.contracts.records import read_results
from worldclip.core.errors import UserError
from worldclip.evaluate import tables
from worldclip.evaluate.compare import Comparison, compare, find_arms, resampled_arms, resampled_means
from worldclip.evaluate.comparison_table import comparison_text
from worldclip.evaluate.interval import quantiles
from worldclip.evaluate.tasks import with_ties
from worldclip.report.results import mean_over_languages
from worlds import WordModel, vector, word_dataset

SIXTY = [f"word{i}" for i in range(60)]  # as in evaluated


def top1_of(comparison):
    return next(row for row in comparison.rows if row["metric"] == "acc1")


def test_clear_difference_is_significant_and_equal_results_are_not(tmp_path):
    whole = evaluated(WordModel(), tmp_path / "whole")
    comparison = compare(evaluated(Forgetful(), tmp_path / "forgetful"), whole)
    rows = {(row["task"], row["metric"]): row for row in comparison.rows}
    top1 = rows["zeroshot_classification", "acc1"]
    assert top1["languages"] == ["en", "de"]
    first, second = top1["values"]
    assert second == 1.0
    assert top1["differences"] == [pytest.approx(1.0 - first)]
    ((low, high),) = top1["intervals"]
    assert low < second - first < high
    assert top1["is_significant"] == [True]
    assert "intervals" in rows["image_text_retrieval", "text_retrieval_recall@5"]
    same = compare(whole, evaluated(WordModel(), tmp_path / "again")).rows
    assert all(row["differences"] == [0] for row in same)
    assert not any(row["is_significant"][0] for row in same if "is_significant" in row)
    table = comparison_text(comparison)
    assert ("a", "zeroshot_classification", "acc1", "2") in {row[:4] for row in markdown_rows(table)}
    assert " * |" in table
    assert "Means over: en de.\n" in table
    assert "a, zeroshot_classification, acc1:" in table
    by_language = markdown_rows(table.partition("a, zeroshot_classification, acc1:")[2].strip().partition("\n\n")[0])
    assert [row[0] for row in by_language] == ["language", "--------", "en", "de"]


def test_models_of_different_preprocessing_are_compared_and_the_table_says_so(tmp_path):
    first, second = WordModel(), WordModel()
    common = {"resize": "8 x 8", "interpolation": "bicubic", "implementation": "Pillow", "exif": "applied"}
    first.preprocess, second.preprocess = common | {"crop": "none"}, common | {"crop": "central 8 x 8"}
    found = compare(evaluated(first, tmp_path / "first"), evaluated(second, tmp_path / "second"))
    assert all(row["differences"] == [0] for row in found.rows)
    text = comparison_text(found)
    assert "first: resize 8 x 8, crop none, bicubic by Pillow, EXIF applied; second: resize 8 x 8, crop central" in text
    assert "preprocessed differently" not in comparison_text(compare(tmp_path / "first", tmp_path / "first"))


def test_english_and_local_questions_are_compared_separately(tmp_path):
    questions = word_dataset("a", [f"word{i}" for i in range(60)], languages=("en", "local"))
    models = {"forgetful": Forgetful(), "whole": WordModel()}
    comparison = compare(*(evaluated(model, tmp_path / name, questions) for name, model in models.items()))
    rows = [row for row in comparison.rows if row["metric"] == "acc1"]
    assert [row["languages"] for row in rows] == [["en"], ["local"]]
    assert all(row["is_significant"] == [True] for row in rows)
    text = comparison_text(Comparison(arms=comparison.arms, rows=rows, by_language=[]))
    assert [row[:4] for row in markdown_rows(text)[2:]] == [
        ("a", "zeroshot_classification", "acc1", lang) for lang in ("en", "local")
    ]
    assert "Means over" not in text


def interval(gains):
    """Of the mean over languages of each one's mean gain."""
    return quantiles(resampled_means(gains))


def test_gains_of_an_image_in_all_languages_and_captions_are_drawn_together():
    gain, images = np.array([1, 0, 0, -1, 1, 0, 1, 0] * 10), np.arange(80)
    alone = interval([(gain, images)])
    np.testing.assert_allclose(interval([(gain, images)] * 5), alone)  # five that agree tell no more than one
    apart = interval([(gain, images + 80 * lang) for lang in range(5)])
    five = np.repeat(gain, 5)
    together = interval([(five, np.repeat(images, 5))])
    np.testing.assert_allclose(together, alone, atol=0.02)
    captions_apart = interval([(five, np.arange(400))])
    assert max(np.ptp(apart), np.ptp(captions_apart)) < 0.6 * np.ptp(alone)


def test_paired_interval_agrees_with_plain_resampling():
    random = np.random.default_rng(1)
    gains = [random.integers(-1, 2, n) for n in (30, 9)]
    images = [random.integers(0, 12, n) for n in (30, 9)]  # the second language lacks some images
    means = []
    for _ in range(2_000):
        drawn = random.integers(0, 12, 12)
        asked = [
            np.concatenate([gain[of_query == image] for image in drawn])
            for gain, of_query in zip(gains, images, strict=True)
        ]
        means.append(np.mean([queries.mean() for queries in asked if len(queries)]))
    found = interval(list(zip(gains, images, strict=True)))
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.03)


def run_folder(root, name, seed, tail_fraction, model):
    (root / name).mkdir(parents=True)
    (root / name / "recipe.toml").write_text(
        f"balance.tail_fraction = {tail_fraction}\ntrain.seed = {seed}\n[train.model]\npreset = 'tiny'\n"
    )
    evaluated(model, root / name / "evaluate")
    return root / name


def test_results_on_different_data_are_not_compared(tmp_path):
    first = evaluated(WordModel(), tmp_path / "first")
    other = evaluated(WordModel(), tmp_path / "other", word_dataset("a", ["word1", "word2"]))
    with pytest.raises(UserError, match="no record in common"):
        compare(first, other)
    reworded = dataclasses.replace(word_dataset("a", SIXTY), digest="other texts")
    with pytest.raises(UserError, match="no record in common"):
        compare(first, evaluated(WordModel(), tmp_path / "reworded", reworded))
    with pytest.raises(UserError, match="no record in common"):
        compare(first, evaluated(WordModel(), tmp_path / "ties", with_ties(word_dataset("a", SIXTY), "first")))
    (tmp_path / "recipe.toml").write_text("")
    for path, missing in ((tmp_path / "nothing", "nothing/results"), (tmp_path, "evaluate/results")):
        with pytest.raises(UserError, match=rf"{missing}\.jsonl is missing; evaluate first"):
            compare(first, path)


def test_folders_are_told_apart_by_few_names_and_one_given_twice_is_no_second_seed(tmp_path):
    paths = [evaluated(WordModel(), tmp_path / name / "out") for name in ("a", "b")]
    assert [arm.name for arm in find_arms(paths)] == ["a/out", "b/out"]
    assert str(tmp_path) not in comparison_text(compare(*paths))
    run = run_folder(tmp_path, "run", 0, 0.1, WordModel())
    assert [arm.name for arm in find_arms([run, run / "evaluate"])] == ["run", "run"]


def test_runs_that_differ_in_seeds_alone_are_one_arm(tmp_path):
    paths = [
        run_folder(tmp_path, "balanced_0", 0, 0.1, WordModel()),
        run_folder(tmp_path, "raw_0", 0, 1.0, Forgetful()),
        run_folder(tmp_path, "balanced_1", 1, 0.1, WordModel()),
    ]
    assert [(arm.name, len(arm.folders)) for arm in find_arms(paths)] == [("balanced_0 (2 seeds)", 2), ("raw_0", 1)]
    row = top1_of(compare(*paths))
    assert row["values"][0] == 1.0
    assert row["is_significant"] == [True]
    assert row["seeds"] == [[1.0, 1.0], []]


class Blind(WordModel):
    """Sees the same word in every image."""

    def see(self, image: bytes) -> np.ndarray:
        return vector("word7")


def test_seeds_show_their_spread_and_numbers_at_chance_say_so(tmp_path):
    seeds = [
        run_folder(tmp_path, "balanced_0", 0, 0.1, WordModel()),
        run_folder(tmp_path, "balanced_1", 1, 0.1, Forgetful()),
    ]
    comparison = compare(*seeds)
    row = top1_of(comparison)
    low, high = row["seeds"][0]
    assert low < row["values"][0] < high == 1.0
    assert row["is_at_chance"] == [False]
    assert f"{100 * row['values'][0]:.1f} ({100 * low:.1f} to 100.0)" in comparison_text(comparison)
    blind = compare(*seeds, run_folder(tmp_path, "blind", 0, 0.2, Blind()))
    row = top1_of(blind)
    assert row["chance"] == 1 / 80  # the 60 words and 20 others
    assert row["is_at_chance"] == [False, True]
    assert "1.7 (not above chance)" in comparison_text(blind)


def test_few_right_answers_are_not_above_a_high_chance(tmp_path):
    def rows_of(num_words: int):
        words = [f"word{i}" for i in range(num_words)]
        compared = compare(evaluated(WordModel(), tmp_path / f"{num_words}", word_dataset("a", words)))
        return {row["metric"]: row for row in compared.rows}

    few, many = rows_of(6)["text_retrieval_recall@5"], rows_of(60)["text_retrieval_recall@5"]
    assert (few["values"], many["values"]) == ([1.0], [1.0])
    assert (few["chance"], few["is_at_chance"]) == (pytest.approx(5 / 6), [True])
    assert many["is_at_chance"] == [False]


def test_more_than_two_arms_are_each_compared_with_the_first(tmp_path):
    models = {"one": WordModel(), "two": Forgetful(), "three": WordModel()}
    comparison = compare(*(evaluated(model, tmp_path / name) for name, model in models.items()))
    row = top1_of(comparison)
    assert len(row["values"]) == 3
    assert row["is_significant"] == [True, False]
    assert row["differences"][1] == 0
    assert markdown_rows(comparison_text(comparison))[0][7:] == (
        "two - one", "95% interval", "three - one", "95% interval", "chance"
    )  # fmt: skip


def test_seeds_widen_the_interval_as_plain_resampling_does():
    random = np.random.default_rng(2)
    images = np.arange(40)
    rates = [0.2, 0.9, 0.5, 0.4, 0.45, 0.5]  # three seeds each; those of the first arm disagree
    answers = [[((random.random(40) < rate), images)] for rate in rates]
    arm_of_run = np.repeat([0, 1], 3)
    differences = []
    for _ in range(4_000):
        drawn = random.integers(0, 40, 40)
        means = np.array([hits[drawn].mean() for ((hits, _),) in answers])
        differences.append(means[3 + random.integers(0, 3, 3)].mean() - means[random.integers(0, 3, 3)].mean())
    first, second = resampled_arms(answers, arm_of_run)
    bounds = quantiles(second - first)
    np.testing.assert_allclose(bounds, np.quantile(differences, [0.025, 0.975]), atol=0.03)
    assert np.ptp(bounds) > np.ptp(quantiles(resampled_means(answers[3]) - resampled_means(answers[0])))


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


def test_table_has_languages_mean_and_chance_in_percent(tmp_path):
    chance = {"acc1": 0.001}
    table = tables.markdown_table([record("en", chance=chance, acc1=0.5), record("th", chance=chance, acc1=0.25)])
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
    answers = {"en": 0.6, "local": 0.4}  # English and local questions are not averaged
    table = tables.markdown_table([record(lang, "cvqa", "choice", accuracy=answers[lang]) for lang in answers])
    assert "mean" not in table
    assert "10 questions; percent." in table
    assert "`local`: each question in the language it was written in." in table
    sets = [word_dataset("a", ["cat", "dog"]), word_dataset("b", ["owl"], languages=("en",))]
    records = read_results(evaluated(WordModel(), tmp_path, *sets) / "results.jsonl")
    first, second = tables.markdown_table(records).split("### ")[1:]
    assert markdown_rows(first)[0] == ("language", "top-1", "top-5", "image > text R@1", "text > image R@1")
    assert "| de " in first
    assert "| de " not in second  # without data there is no row, and no zero


def test_columns_are_the_metrics_that_the_catalog_or_the_task_names():
    shots = {"acc1_5_shot": 0.5}
    of_tasks = [record(task=task, **shots) for task in ("few_shot_country", "few_shot_region")]
    pets = [record("en", "pets", acc1=0.5, mean_per_class_recall=0.25)]
    assert markdown_rows(tables.markdown_table(pets))[0] == ("language", "mean per class recall")
    columns = ("language", "acc1 5 shot (few shot country)", "acc1 5 shot (few shot region)")
    assert markdown_rows(tables.markdown_table(of_tasks))[0] == columns
    distances = record(task="alignment_uniformity", alignment=1.5, uniformity_image=-2.0)
    assert markdown_rows(tables.markdown_table([distances]))[2] == ("en", "1.500", "-2.000")


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


def test_csv_has_a_row_per_metric_and_part(records):
    rows = list(csv.DictReader(io.StringIO(tables.csv_text("mine", records))))
    first = rows[0]
    assert (first["dataset"], first["lang"], first["metric"], float(first["value"])) == ("a_b", "en", "acc1", 1.0)
    assert (float(first["low"]), float(first["high"]), first["n"]) == (pytest.approx(0.3424, abs=1e-4), 1.0, "2")
    assert float(first["chance"]) == pytest.approx(1 / 22)
    assert {row["part"] for row in rows} == {"", "first"}
    assert len([row for row in rows if row["lang"] == "de" and row["task"] == "image_text_retrieval"]) == 6
