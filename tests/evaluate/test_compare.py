"""Evaluations side by side, tables in Markdown and CSV, suites, published numbers, and SLIP's class names."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluated import Forgetful, evaluated, record, webdataset_files
from made_up_run import write_manifests
from miniature import write_files
from toy import markdown_rows
from worldclip.cli import main
from worldclip.contracts.records import read_results, results_of
from worldclip.core.artifacts import write_manifest
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine, slip, suites, tables
from worldclip.evaluate.arms import find_arms
from worldclip.evaluate.catalog import CATALOG, DATACOMP38, SLIP26, SUITES, read_csv
from worldclip.evaluate.compare import compare, holm
from worldclip.evaluate.comparison_table import comparison_text
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.interval import mean_of_resamples, quantiles, resampled_arms, resampled_means
from worldclip.evaluate.slip import names_by_dataset, slip_order
from worldclip.evaluate.tables import beside_text, markdown_table, suite_text
from worldclip.evaluate.tasks import with_ties
from worldclip.report.metrics import CLASSIFICATION, SLIP_CLASSIFICATION
from worldclip.report.results import mean_over_languages
from worldclip.tools.fetch_dataset import names_to_fetch
from worlds import WordModel, vector, word_dataset

SIXTY = [f"word{i}" for i in range(60)]  # as in evaluated


def top1_of(comparison):
    return next(row for row in comparison.rows if row["metric"] == "acc1")


def test_clear_difference_is_significant_and_equal_results_are_not(tmp_path):
    whole = evaluated(WordModel(), tmp_path / "whole")
    again = evaluated(WordModel(), tmp_path / "again")
    comparison = compare(evaluated(Forgetful(), tmp_path / "forgetful"), whole, again)
    rows = {(row["task"], row["metric"]): row for row in comparison.rows}
    top1 = rows["zeroshot_classification", "acc1"]
    assert top1["languages"] == ["en", "de"]
    first, second, third = top1["values"]
    assert (second, third) == (1.0, 1.0)
    assert top1["differences"] == [pytest.approx(1.0 - first)] * 2
    (low, high), _ = top1["intervals"]
    assert low < second - first < high
    assert top1["is_significant"] == [True, True]
    assert "intervals" in rows["image_text_retrieval", "text_retrieval_recall@5"]
    same = compare(whole, again)
    assert all(row["differences"] == [0] for row in same.rows)
    tested = [row for row in same.rows if "intervals" in row]
    assert {(row["intervals"][0], row["is_significant"][0]) for row in tested} == {(None, False)}
    assert markdown_rows(comparison_text(same))[2][6:8] == ("+0.0", "none: the same in every image")
    table = comparison_text(comparison)
    assert ("a", "zeroshot_classification", "acc1", "2") in {row[:4] for row in markdown_rows(table)}
    assert " * |" in table
    columns = ("again - forgetful", "95% interval", "chance")
    assert markdown_rows(table)[0][7:] == ("whole - forgetful", "95% interval", *columns)
    assert "Means over: en de.\n" in table
    by_language = markdown_rows(table.partition("a, zeroshot_classification, acc1:")[2].strip().partition("\n\n")[0])
    assert [row[0] for row in by_language] == ["language", "--------", "en", "de"]
    assert by_language[0][4:6] == ("whole - forgetful", "95% interval")
    for row in by_language[2:]:
        low, high = map(float, row[5].split(" to "))
        assert 0 < low < float(row[4]) < high


def test_differences_by_language_have_the_intervals_of_plain_resampling(tmp_path):
    whole = word_dataset("a", SIXTY)

    def tasks(lang):
        (task, _) = whole.tasks(lang)
        number = 25 if lang == "de" else 60
        return [dataclasses.replace(task, image_idx=np.arange(number), target=task.target[:number], slices={})]

    dataset = dataclasses.replace(whole, tasks=tasks)
    models = {"whole": WordModel(), "forgetful": Forgetful()}
    found = compare(*(evaluated(model, tmp_path / name, dataset) for name, model in models.items()))
    random = np.random.default_rng(0)
    rows = [row for row in found.by_language if row["metric"] == "acc1"]
    for row, number in zip(rows, (60, 25), strict=True):
        lost = np.array([word[-1] in "036" for word in SIXTY[:number]])
        assert row["differences"] == [pytest.approx(-lost.mean())]
        means = [-lost[random.integers(0, number, number)].mean() for _ in range(4_000)]
        np.testing.assert_allclose(row["intervals"][0], np.quantile(means, [0.025, 0.975]), atol=0.03)
    top1 = top1_of(found)
    assert top1["languages"] == ["en", "de"]
    ((low, high),) = top1["intervals"]
    assert low < top1["differences"][0] < high < 0


def test_of_many_languages_the_highest_and_lowest_differences_are_shown(tmp_path):
    langs = tuple(f"l{i:02}" for i in range(40))
    found = compare(
        evaluated(WordModel(), tmp_path / "a", word_dataset("a", SIXTY[:6], languages=langs)),
        evaluated(Forgetful(), tmp_path / "b", word_dataset("a", SIXTY[:6], languages=langs)),
    )
    text = comparison_text(found)
    head = "a, zeroshot_classification, acc1 (the 5 highest and lowest differences of b; --json has all):"
    shown = markdown_rows(text.partition(head)[2].strip().partition("\n\n")[0])
    assert len(shown) == 2 + 5 + 1 + 5
    assert shown[7][0] == "30 more"


def test_runs_by_another_code_say_of_which_stages(tmp_path):
    paths = [run_folder(tmp_path, name, 0, tail, WordModel()) for name, tail in (("a", 0.1), ("b", 0.2), ("c", 0.3))]
    for path, code in zip(paths, ({"code": "1"}, {"code": "2"}, {}), strict=True):
        config = {"balance": {"tail_fraction": {"a": 0.1, "b": 0.2, "c": 0.3}[path.name]}}
        for stage in ("match", "balance"):
            write_manifest(path / stage, config=config, inputs={}, counts={}, **(code if stage == "balance" else {}))
    text = comparison_text(compare(*paths))
    assert "balance.tail_fraction was 0.1, is 0.2; other code of balance\n" in text
    assert "balance.tail_fraction was 0.1, is 0.3\n" in text


def test_pairs_seen_and_a_schedule_that_changed_are_part_of_what_differs(tmp_path, capsys):
    paths = [run_folder(tmp_path, name, 0, tail, WordModel()) for name, tail in (("a", 0.1), ("b", 0.2))]
    counts = [{"en": 1_500, "th": 20}, {"en": 900, "th": 620}]
    for path, seen in zip(paths, counts, strict=True):
        lines = [json.dumps({"step": step, "seen": part}) for step, part in ((1, {"en": 1}), (2, seen))]
        write_files(path, {"train/seen.jsonl": "\n".join([*lines, ""])})
    changed = {"from_step": 1_000, "keys": {"train.lr": [0.001, 0.0005]}}
    write_files(paths[1], {"train/config.json": json.dumps({"changes": [changed]})})
    assert main(["compare", *map(str, paths)]) == 0
    text = capsys.readouterr().out
    rows = markdown_rows(text.partition("Pairs seen in training by language:")[2].strip().partition("\n\n")[0])
    assert rows[2:] == [("en", "1,500", "900"), ("th", "20", "620"), ("**all**", "1,520", "1,520")]
    fact = "balance.tail_fraction was 0.1, is 0.2; b from step 1,000 on: train.lr was 0.001, is 0.0005"
    assert f"{fact}\n" in text
    assert main(["compare", *map(str, paths), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [arm["seen"] for arm in result["arms"]] == counts
    assert {row["lang"] for row in result["by_language"]} == {"en", "de"}
    assert all(len(row["intervals"]) == 1 for row in result["by_language"] if row["metric"] == "acc1")
    write_files(paths[1], {"train/seen.jsonl": (paths[0] / "train/seen.jsonl").read_text()})
    assert "Pairs seen in training" not in comparison_text(compare(*paths))


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
    questions = word_dataset("a", SIXTY, languages=("en", "local"))
    models = {"forgetful": Forgetful(), "whole": WordModel()}
    comparison = compare(*(evaluated(model, tmp_path / name, questions) for name, model in models.items()))
    rows = [row for row in comparison.rows if row["metric"] == "acc1"]
    assert [row["languages"] for row in rows] == [["en"], ["local"]]
    assert all(row["is_significant"] == [True] for row in rows)
    text = comparison_text(dataclasses.replace(comparison, rows=rows, by_language=[]))
    assert [row[:4] for row in markdown_rows(text)[2:]] == [
        ("a", "zeroshot_classification", "acc1", lang) for lang in ("en", "local")
    ]
    assert "Means over" not in text
    local = evaluated(Forgetful(), tmp_path / "local", word_dataset("a", SIXTY, languages=("local",)))
    for order in ((tmp_path / "whole", local), (local, tmp_path / "whole")):
        assert [row["languages"] for row in compare(*order).rows if row["metric"] == "acc1"] == [["local"]]


def test_a_language_without_a_query_in_a_resample_does_not_count_in_it():
    every, first = np.arange(5), np.zeros(1, np.int64)
    answers = [(np.zeros(5), every), (np.ones(1), first)]  # the second asks about one image of five
    means = mean_of_resamples(resampled_means(answers))
    assert set(means.tolist()) == {0.0, 0.5}
    assert means.mean() == pytest.approx(0.5 * (1 - 0.8**5), abs=0.03)


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
    found = quantiles(mean_of_resamples(resampled_means(list(zip(gains, images, strict=True)))))
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.03)


def run_folder(root, name, seed, tail_fraction, model):
    recipe = f"balance.tail_fraction = {tail_fraction}\ntrain.seed = {seed}\n[train.model]\npreset = 'tiny'\n"
    write_files(root / name, {"recipe.toml": recipe})
    evaluated(model, root / name / "evaluate")
    return root / name


def test_results_on_different_data_are_not_compared(tmp_path):
    first, sixty = evaluated(WordModel(), tmp_path / "first"), word_dataset("a", SIXTY)
    for number, dataset in enumerate((dataclasses.replace(sixty, digest="other texts"), with_ties(sixty, "first"))):
        with pytest.raises(UserError, match="no record in common"):
            compare(first, evaluated(WordModel(), tmp_path / f"{number}", dataset))
    run = tmp_path / "run"
    checkpoint = "train/step_000000001/config.json"
    for file, step in (("notes.txt", "evaluate"), ("recipe.toml", "run"), (checkpoint, "evaluate")):
        write_files(run, {file: ""})
        with pytest.raises(UserError, match=rf"results\.jsonl is missing; {step} first: worldclip {step} {run}"):
            compare(first, run)


def test_answers_about_other_images_have_no_interval(tmp_path):
    folders = [evaluated(WordModel(), tmp_path / "whole"), evaluated(Forgetful(), tmp_path / "forgetful")]
    assert "intervals" in top1_of(compare(*folders))
    for path in folders[1].glob("ranks/*.images.npy"):  # as if another image had not been decoded
        np.save(path, np.load(path) + 1)
    assert "intervals" not in top1_of(compare(*folders))


def test_an_unfinished_evaluation_is_not_mixed_with_what_was_there(tmp_path):
    first, other = evaluated(WordModel(), tmp_path / "first"), evaluated(WordModel(), tmp_path / "other")
    whole = [json.loads(line) for line in (other / "results.jsonl").read_text().splitlines()]

    def compare_with(*lines):
        write_files(other, {"results.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines)})
        return compare(first, other)

    new = {"digest": "n", "metrics": whole[0]["metrics"] | {"acc1": 0.0}}
    for changed, said in (
        ({"model": "second", "model_digest": "2"}, r"records of other models \(other, second\)"),
        ({"dataset_digest": "2"}, "records of other data or of another protocol"),
        ({}, "records of other data or of another protocol"),
    ):
        with pytest.raises(UserError, match=said):
            compare_with(*whole, whole[0] | new | changed)
    write_files(other, {"report.json": json.dumps({"records": [record["digest"] for record in whole]})})
    with pytest.raises(UserError, match="has an unfinished evaluation; finish it with its command"):
        compare_with(*whole)
    write_manifest(other, config={}, inputs={}, counts={})
    found = compare_with(*whole, whole[0] | new | {"model": "second", "model_digest": "2"})
    assert all(row["differences"] == [0] for row in found.rows), "those of the last finished evaluation"
    write_files(other, {"report.json": json.dumps({"records": [record["digest"] for record in whole[::-1]]})})
    assert results_of(other) == whole[::-1], "in its order"
    with pytest.raises(UserError, match=r"results\.jsonl lacks 1 record"):
        compare_with(*whole[1:])


def test_ranks_of_another_model_are_not_taken_for_those_of_a_record(tmp_path):
    whole, results = evaluated(WordModel(), tmp_path / "whole"), tmp_path / "both" / "results.jsonl"
    sixty = [word_dataset("a", SIXTY)]
    engine.evaluate(WordModel(), {"model": "A", "model_digest": "A"}, sixty, [], results)
    engine.evaluate(Forgetful(), {"model": "B", "model_digest": "B"}, sixty, [], results)
    of_a = [record["digest"] for record in read_results(results) if record["model"] == "A"]
    write_files(results.parent, {"report.json": json.dumps({"records": of_a})})
    write_manifest(results.parent, config={}, inputs={}, counts={})
    top1 = top1_of(compare(whole, results.parent))
    assert (top1["differences"], top1["intervals"], top1["is_significant"]) == ([0], [None], [False])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, "nest|recursion"),
        ("[1]", "it is a JSON list, not an object"),
        (json.dumps({**record(acc1=0.5), "lang": None}), "lang missing or of another type"),
        (json.dumps({**record(acc1=0.5), "metrics": {"acc1": "x"}}), "metrics missing"),
        (
            "{}",
            "dataset, lang, task, n, metrics, chance, interval_95, digest, model_digest, dataset_digest, protocol m",
        ),
    ],
    ids=["nested", "list", "null", "text", "empty"],
)
def test_lines_that_are_no_records_are_named(line, said, tmp_path):
    first = evaluated(WordModel(), tmp_path / "first")
    other = write_files(tmp_path / "other", {"results.jsonl": f"{line}\n{line}\n"})
    with pytest.raises(UserError, match=rf"results\.jsonl:1 is not a record \(.*({said})") as caught:
        compare(first, other)
    assert len(caught.value.problems) == 2


def test_a_record_without_its_preprocessing_is_compared(tmp_path):
    folders = [evaluated(WordModel(), tmp_path / name) for name in ("first", "other")]
    path = folders[1] / "results.jsonl"
    path.write_text(path.read_text().replace('"preprocess": {}', '"preprocess": [1]'))
    assert "[1]" in path.read_text()
    assert "acc1" in comparison_text(compare(*folders))


def test_of_a_path_that_does_not_exist_nothing_is_said_of_the_others(tmp_path, capsys):
    curated = write_files(tmp_path / "curated", {"recipe.toml": "", "curate/report.json": "{}"})
    assert main(["compare", str(curated), str(tmp_path / "missing")]) == 2
    remedy = "give runs, or folders that evaluate wrote"
    assert capsys.readouterr().err == f"worldclip: {tmp_path}/missing does not exist; {remedy}\n"


def test_folders_are_told_apart_by_few_names_and_one_given_twice_is_no_second_seed(tmp_path):
    paths = [evaluated(WordModel(), tmp_path / name / "out") for name in ("a", "b")]
    assert [arm.name for arm in find_arms(paths)] == ["a/out", "b/out"]
    assert str(tmp_path) not in comparison_text(compare(*paths))
    run = run_folder(tmp_path, "run", 0, 0.1, WordModel())
    assert [arm.name for arm in find_arms([run, run / "evaluate"])] == ["run", "run"]
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert [arm.name for arm in find_arms([run, copy])] == ["run", "copy"]


def test_arms_are_named_by_the_keys_in_which_they_differ_and_the_table_lists_them(tmp_path, capsys):
    settings = {"a": 0.1, "b": 0.1, "c": 0.2}
    paths = [run_folder(tmp_path, name, seed, tail, WordModel()) for seed, (name, tail) in enumerate(settings.items())]
    comparison = compare(*paths)
    assert [arm.name for arm in comparison.arms] == ["balance.tail_fraction=0.1 (2 seeds)", "balance.tail_fraction=0.2"]
    text = comparison_text(comparison)
    assert "- balance.tail_fraction=0.1 (2 seeds): a, b\n" in text
    assert "not the same pool" not in capsys.readouterr().err
    write_manifest(tmp_path / "a/pool", config={}, inputs={"0.tar": 1}, counts={})
    compare(*paths)
    assert "warning: a, b have one recipe but not the same pool, lists or code" in capsys.readouterr().err
    assert "- balance.tail_fraction=0.2: c; balance.tail_fraction was 0.1, is 0.2\n" in text
    recipe = "balance.tail_fraction = 0.2\ntrain.lr = 0.1\n[train.model]\npreset = 'vit_b32'\n"
    (tmp_path / "c/recipe.toml").write_text(recipe)  # too much for a name
    assert [arm.name for arm in compare(*paths).arms] == ["a (2 seeds)", "c"]
    changes = (
        "balance.tail_fraction was 0.1, is 0.2; train.model.preset was tiny, is vit_b32; train.lr was None, is 0.1"
    )
    assert f"- c: {changes}\n" in comparison_text(compare(*paths))
    assert "differs from the first" not in comparison_text(compare(paths[0], paths[0] / "evaluate"))


def test_a_recipe_that_did_not_make_the_checkpoint_names_no_arm(tmp_path):
    paths = [run_folder(tmp_path, name, 0, tail, WordModel()) for name, tail in (("a", 0.1), ("b", 0.2))]
    write_manifests(paths[1])
    assert [arm.name for arm in find_arms(paths)] == ["balance.tail_fraction=0.1", "balance.tail_fraction=0.2"]
    for config in ({"ran": "again"}, {"balance": {"tail_fraction": 0.3}}):  # the recipe has 0.2
        write_manifest(paths[1] / "balance", config=config, inputs={}, counts={})
        arms = find_arms(paths)
        assert [arm.name for arm in arms] == ["a", "b"]
        assert [arm.changes for arm in arms] == [[], []]


def test_a_star_needs_more_the_more_is_compared(tmp_path):
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == pytest.approx([1.0, 1.0])
    almost_whole = Forgetful((b"word1", b"word2", b"word4", b"word5", b"word8"))
    row = top1_of(compare(evaluated(WordModel(), tmp_path / "whole"), evaluated(almost_whole, tmp_path / "almost")))
    assert row["intervals"][0][1] < 0 < 0.05 < row["p_values"][0]
    assert row["is_significant"] == [False], "one of many comparisons"


def test_metrics_of_the_same_answers_are_one_of_the_comparisons(tmp_path):
    models = {"whole": WordModel(), "forgetful": Forgetful()}
    found = compare(*(evaluated(model, tmp_path / name) for name, model in models.items()))
    p_values = {row["metric"]: row["p_values"] for row in found.rows if "p_values" in row}
    assert p_values["acc1"] == p_values["text_retrieval_recall@1"] != p_values["acc5"]
    distinct = {tuple(row["intervals"]) for row in found.rows if "p_values" in row}
    assert found.num_tests == len(distinct) < len(p_values)
    assert f"correction for {len(distinct)} comparisons" in comparison_text(found)


class Blind(WordModel):
    """Sees the same word in every image."""

    def see(self, image: bytes) -> np.ndarray:
        return vector("word7")


def test_seeds_show_their_spread_and_numbers_at_chance_say_so(tmp_path):
    models = (WordModel(), Forgetful())
    seeds = [run_folder(tmp_path, f"balanced_{seed}", seed, 0.1, model) for seed, model in enumerate(models)]
    comparison = compare(*seeds)
    assert [(arm.name, len(arm.folders)) for arm in comparison.arms] == [("balanced_0 (2 seeds)", 2)]
    row = top1_of(comparison)
    low, high = row["seeds"][0]
    assert low < row["values"][0] < high == 1.0
    assert row["is_at_chance"] == [False]
    assert f"{100 * row['values'][0]:.1f} ({100 * low:.1f} to 100.0)" in comparison_text(comparison)
    assert "star" not in comparison_text(comparison)  # nothing is compared
    blind = compare(*seeds, run_folder(tmp_path, "blind", 0, 0.2, Blind()))
    row = top1_of(blind)
    assert row["chance"] == 1 / 80  # the 60 words and 20 others
    assert row["is_at_chance"] == [False, True]
    assert len(row["seeds"][0]) == 2
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
    means = [mean_of_resamples(resampled_means(of_run)) for of_run in answers]
    first, second = resampled_arms(means, arm_of_run)
    bounds = quantiles(second - first)
    np.testing.assert_allclose(bounds, np.quantile(differences, [0.025, 0.975]), atol=0.03)
    assert np.ptp(bounds) > np.ptp(quantiles(means[3] - means[0]))


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
    sets = [word_dataset("a", ["cat", "dog"]), word_dataset("b", ["owl"], languages=("en",))]
    records = read_results(evaluated(WordModel(), tmp_path, *sets) / "results.jsonl")
    first, second = tables.markdown_table(records).split("### ")[1:]
    assert markdown_rows(first)[0] == ("language", "classes", "top-1", "top-5", "image > text R@1", "text > image R@1")
    assert "| de " in first
    assert "| de " not in second  # without data there is no row, and no zero


def test_chances_that_differ_between_languages_stand_next_to_each_number():
    numbers = {"en": (0.1, 0.4), "sw": (0.5, 0.45)}  # few names of Swahili: guessing is right more often
    records = [
        record(lang, chance={"acc1": chance, "acc5": 0.5}, acc1=acc1, acc5=0.6)
        for lang, (chance, acc1) in numbers.items()
    ]
    names, _, *rows = markdown_rows(tables.markdown_table(records))
    assert names == ("language", "top-1", "chance", "top-5")
    assert rows == [
        ("en", "40.0", "10.0", "60.0"),
        ("sw", "45.0", "50.0", "60.0"),
        ("**mean**", "42.5", "30.0", "60.0"),
        ("chance", "", "", "50.0"),
    ]
    only = [{**one, "chance": {"acc1": one["chance"]["acc1"]}, "metrics": {"acc1": 0.4}} for one in records]
    assert [row[0] for row in markdown_rows(tables.markdown_table(only))[2:]] == ["en", "sw", "**mean**"]


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


def test_suites_list_the_datasets_of_their_papers():
    assert (len(SLIP26), len(set(SLIP26)), len(DATACOMP38), len(set(DATACOMP38))) == (26, 26, 38, 38)
    assert all(name in CATALOG for names in SUITES.values() for name in names)
    assert all(info.title for info in CATALOG.values())
    by_class = {name for name in SLIP26 if CATALOG[name].metrics == ("mean_per_class_recall",)}
    assert by_class == {"fgvc_aircraft", "pets", "caltech101", "flowers"}
    others = {name: CATALOG[name].metrics[0] for name in SLIP26 if name not in by_class}
    assert {name: metric for name, metric in others.items() if metric != "acc1"} == {
        "kinetics700": "acc1+acc5", "hateful_memes": "roc_auc",
    }  # fmt: skip
    assert set(names_to_fetch()) > {"imagenet1k", "xm3600", "xtd200", "cvqa", "cars"}


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("acc1", 0.4),
        ("acc1+acc5", 0.6),
        ("roc_auc", None),
        ("acc1+roc_auc", None),
        ("worst region/acc1", 0.1),
        ("worst income/acc1", None),
        ("region 2/acc1", 0.3),
        ("region 9/acc1", None),
        ("mean_recall@1", 0.4),
    ],
)
def test_value_is_a_metric_or_derived_from_several(metric, value):
    slices = {f"region {i}": {"acc1": i / 10 + 0.1} for i in range(3)}
    recalls = {"image_retrieval_recall@1": 0.2, "text_retrieval_recall@1": 0.6}
    result = suites.value(metric, record(slices=slices, acc1=0.4, acc5=0.8, **recalls))
    assert result == (None if value is None else pytest.approx(value))


def slip_records(value):
    metrics = {"acc1": value, "acc5": value, "mean_per_class_recall": value, "roc_auc": value}
    return [record(dataset=name, **metrics) for name in SLIP26]


def test_suite_has_a_mean_only_if_no_dataset_is_missing():
    assert suites.suite_mean("slip26", slip_records(0.5)) == (pytest.approx(0.5), [])
    assert suites.suite_mean("slip26", slip_records(0.5)[1:]) == (None, ["food101"])
    text = suite_text("slip26", slip_records(0.5)[1:])
    assert "| Food-101" in text
    assert "No mean: 1 datasets are missing: food101." in text
    assert "Mean over datasets: 50.0." in suite_text("slip26", slip_records(0.5))


def test_english_suites_ignore_other_languages_and_cvqa_has_two_rows():
    both = [record(lang, "pets", mean_per_class_recall=value) for lang, value in (("en", 0.5), ("de", 0.1))]
    row = next(row for row in suites.suite_rows("slip26", both) if row.dataset == "pets")
    assert (row.value, row.languages) == (0.5, ("en",))
    cvqa = [record("en", "cvqa", accuracy=0.6), record("local", "cvqa", accuracy=0.4)]
    rows = [row for row in suites.suite_rows("multilingual", cvqa) if row.dataset == "cvqa"]
    assert [row.value for row in rows] == [0.6, 0.4]
    lines = [line.replace(" ", "") for line in suite_text("multilingual", cvqa).splitlines() if "CVQA" in line]
    assert lines == ["|CVQA|accuracy|en|60.0|", "|CVQA|accuracy|local|40.0|"]


def test_published_numbers_have_known_figures_and_a_source():
    figures = {row["figure"]: row for row in read_csv("figures.csv")}
    rows = read_csv("published.csv")
    assert {row["figure"] for row in rows} == set(figures)
    assert all(0 < float(row["value_pct"]) < 100 and row["source"] for row in rows)
    assert len({(row["model"], row["figure"]) for row in rows}) == len(rows)
    headline = {row["figure"]: row["value_pct"] for row in rows if row["model"] == "ViT-H/14 worldwide 2.3x"}
    names = ("imagenet", "babel_imagenet", "xm3600_i2t", "cvqa_local")
    assert [headline[name] for name in names] == ["81.3", "50.2", "64.3", "57.4"]
    for figure in figures.values():
        name = figure["dataset"].removeprefix("suite:")
        assert name in CATALOG or name in SUITES


def test_differences_from_published_numbers_over_0_2_are_flagged():
    recalls = {"de": (0.6, 0.5), "th": (0.7, 0.6)}
    records = [record("en", "imagenet1k", acc1=0.8144)]
    records += [record(lang, "cvqa", accuracy=value) for lang, value in (("local", 0.5), ("en", 0.615))]
    for lang, (texts, images) in recalls.items():
        metrics = {"text_retrieval_recall@1": texts, "image_retrieval_recall@1": images}
        records.append(record(lang, "xm3600", **metrics))
    rows = {row["figure"]: row for row in suites.beside(records, "ViT-H/14 worldwide 2.3x")}
    assert rows["imagenet"]["difference_pct"] == pytest.approx(0.14)
    assert not rows["imagenet"]["differs"]
    assert rows["cvqa_local"]["differs"]
    assert rows["xm3600_i2t"]["ours_pct"] == pytest.approx(65.0)
    assert rows["xm3600_i2t"]["languages"] == ["de", "th"]
    assert (rows["slip26"]["ours_pct"], len(rows["slip26"]["missing"])) == (None, 25)
    assert (rows["imagenet"]["is_secondary"], rows["slip26"]["is_secondary"]) == (False, True)
    assert [rows[name]["over"] for name in ("xm3600_i2t", "cvqa_local", "slip26")] == ["2 of 36", "local", ""]
    text = beside_text(list(rows.values()), "ViT-H/14 worldwide 2.3x")
    assert "| CVQA LOCAL " in text
    assert "-7.4 !" in text
    assert "(secondary)" in text
    (problem,) = EvaluateConfig(suite="paper", allow_missing=True, against="ViT-Z").problems()
    assert re.search(r'evaluate.against = "ViT-Z": unknown model; known models: .*ViT-H/14', problem)


def test_suite_without_its_data_lists_everything_missing(tmp_path):
    (tmp_path / "xm3600").mkdir()
    assert "must be the folder of babel_imagenet" in str(EvaluateConfig(suite="multilingual").problems())
    (problem,) = EvaluateConfig(suite="multilingual", data=str(tmp_path)).problems()
    assert "lacks babel_imagenet, cvqa, flickr30k_200, xtd10, xtd200" in problem
    assert "worldclip fetch dataset" in problem
    config = EvaluateConfig(suite="multilingual", data=str(tmp_path), allow_missing=True)
    assert (config.dataset_names, config.problems()) == (("xm3600",), [])
    (problem,) = EvaluateConfig(suite="slip").problems()
    assert 'evaluate.suite = "slip": must be one of imagenet, slip26' in problem


@pytest.mark.parametrize(
    ("keys", "is_paper"),
    [
        ({}, False),
        ({"suite": "slip26"}, False),
        ({"suite": "paper"}, True),
        ({"suite": "paper", "protocol": "own"}, False),
        ({"protocol": "paper"}, True),
    ],
)
def test_suite_paper_has_the_papers_protocol_unless_told_otherwise(keys, is_paper):
    config = EvaluateConfig(**keys)
    assert (config.tie_rule, config.preprocess_rule) == (("first", "reference") if is_paper else ("against", "source"))


# The labels of CLIP_benchmark's copy (TensorFlow Datasets') are in the order of names, where cats and dogs alternate.
PETS = sorted(name.title() for (name,) in names_by_dataset()["pets"].classes)
NUM_CLASSES = {
    "food101": 101, "cifar10": 10, "cifar100": 100, "cub200": 200, "sun397": 397, "cars": 196, "fgvc_aircraft": 100,
    "dtd": 47, "pets": 37, "caltech101": 102, "flowers": 102, "mnist": 10, "fer2013": 7, "stl10": 10, "eurosat": 10,
    "resisc45": 45, "gtsrb": 43, "kitti": 4, "country211": 211, "pcam": 2, "ucf101": 101, "kinetics700": 700,
    "clevr_count": 8, "hateful_memes": 2, "renderedsst2": 2,
}  # fmt: skip


def names_in_label_order(dataset: str, class_names: list[str]) -> list[list[str]]:
    names = names_by_dataset()[dataset]
    return [names.classes[position] for position in slip_order(class_names, names)]


def test_every_dataset_of_the_suite_but_imagenet_has_all_its_classes():
    names = names_by_dataset()
    assert set(names) == set(SLIP26) - {"imagenet1k"}
    assert {dataset: len(of_dataset.classes) for dataset, of_dataset in names.items()} == NUM_CLASSES
    for of_dataset in names.values():
        assert all("{}" in template for template in of_dataset.templates)
        assert len({slip.letters(synonyms[0]) for synonyms in of_dataset.classes}) == len(of_dataset.classes)


def test_labels_find_their_names_in_another_order_than_slips():
    ours = names_in_label_order("pets", PETS)
    assert [name.casefold() for (name,) in ours] == [name.casefold() for name in PETS]
    assert slip_order(PETS, names_by_dataset()["pets"]) != list(range(37))
    clevr = ["three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert names_in_label_order("clevr_count", clevr) == [[str(number)] for number in range(3, 11)]
    assert names_in_label_order("ucf101", [name.replace(" ", "") for (name,) in names_by_dataset()["ucf101"].classes])
    assert names_in_label_order("hateful_memes", ["a", "b"]) == [["meme"], ["hatespeech meme"]]
    for dataset, class_names, named in (
        ("pets", ["Abyssinian", "Otter", *PETS[2:]], "Otter.*american bulldog"),
        ("pets", [*PETS, "pug"], "38 classes"),
        ("hateful_memes", ["a", "b", "c"], "3 classes"),
    ):
        with pytest.raises(UserError, match=named):
            slip_order(class_names, names_by_dataset()[dataset])
    fer2013 = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    assert names_in_label_order("fer2013", fer2013)[5:] == [["sad", "depressed"], ["surprised", "shocked", "spooked"]]


OTHER_NAMES = {
    "caltech101": "caltech101_vtab",
    "clevr_count": "clevr_count_all",
    "kitti": "kitti_closest_vehicle_distance",
}  # of CLIP_benchmark
SAME_NAMES = ("country211", "eurosat", "fer2013", "flowers", "gtsrb", "mnist", "pcam", "pets")


@pytest.mark.parametrize("dataset", [*OTHER_NAMES, *SAME_NAMES])
def test_class_lists_of_clip_benchmark_map_to_slips(dataset):
    theirs = OTHER_NAMES.get(dataset, dataset)
    clip_benchmark = pytest.importorskip("clip_benchmark")
    listed = json.loads((Path(clip_benchmark.__file__).parent / "datasets/en_classnames.json").read_text())[theirs]
    assert sorted(slip_order(listed, names_by_dataset()[dataset])) == list(range(len(listed)))
    if dataset == "pets":
        assert listed == PETS


class CasefoldModel(WordModel):
    """Finds the picture of a class by the class's name in a text."""

    def encode_text(self, texts):
        stripped = [text.removeprefix("a photo of a ").removesuffix(", a type of pet.") for text in texts]
        return super().encode_text([text.removeprefix("an image of ").casefold() for text in stripped])


def test_a_dataset_is_asked_with_both_names_and_the_record_says_which(tmp_path):
    files = webdataset_files(PETS, [name.casefold() for name in PETS], "an image of {c}")
    write_files(tmp_path / "pets", files)
    config = EvaluateConfig(datasets=("pets",), data=str(tmp_path), protocol="paper")
    dataset = datasets.load("pets", config, tmp_path)
    slips = dataset.tasks("en")[1]
    assert slips.templates == ["a photo of a {}, a type of pet."]
    records, _, _ = engine.evaluate(
        CasefoldModel(), {"model": "m", "model_digest": "m"}, [dataset], [], tmp_path / "out/results.jsonl"
    )
    by_task = {record["task"]: record for record in records}
    assert list(by_task) == ["zeroshot_classification", "zeroshot_classification_slip"]
    assert [record["metrics"]["acc1"] for record in records] == [1, 1]
    assert by_task[SLIP_CLASSIFICATION]["protocol"]["names"] == "facebookresearch/SLIP"
    assert by_task["zeroshot_classification"]["protocol"]["names"] == "given"
    assert len(datasets.load("pets", replace(config, protocol="own"), tmp_path).tasks("en")) == 1


def test_slip26_averages_slips_names_and_datacomp_the_folders():
    values = {CLASSIFICATION: 0.25, SLIP_CLASSIFICATION: 0.75}
    records = [record("en", "pets", task, mean_per_class_recall=value) for task, value in values.items()]
    assert "pets" in DATACOMP38

    def number(suite, records):
        return next(row.value for row in suites.suite_rows(suite, records) if row.dataset == "pets")

    assert (number("slip26", records), number("paper", records), number("datacomp38", records)) == (0.75, 0.75, 0.25)
    assert (number("slip26", records[:1]), number("datacomp38", records[1:])) == (0.25, None)


def test_a_table_of_many_languages_without_a_metric_lists_them_all():
    text = markdown_table([record(f"l{number}", n=0) for number in range(31)])
    assert len(re.findall(r"(?m)^\| l\d", text)) == 31
