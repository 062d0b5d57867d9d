"""Many models in one table, with made-up models of which one knows less."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest

from chromium import open_page
from evaluated import Forgetful, evaluated
from miniature import write_files
from upstream import jsonl
from worldclip.contracts.records import read_results
from worldclip.core.errors import UserError
from worldclip.plugins.leaderboard.board import ALL, BoardCell, leaderboard
from worldclip.plugins.leaderboard.page import best_cells, show_leaderboard, to_text, write_leaderboard
from worlds import WordModel, word_dataset

WORDS = [f"word{i}" for i in range(40)]
LANGUAGES = ("en", "de", "sw", "yo")
MARKUP = "<script>window.planted = 1</script>"


def evaluate(model, folder, *datasets, languages=()):
    return evaluated(model, folder, *(datasets or [word_dataset("a", WORDS, LANGUAGES)]), languages=languages)


@pytest.fixture
def whole(tmp_path):
    return evaluate(WordModel(), tmp_path / "whole")


@pytest.fixture
def forgetful(tmp_path):
    return evaluate(Forgetful(), tmp_path / "forgetful")


def mteb_folder(tmp_path, model="org/one", revision="abc"):
    subsets = [
        {"main_score": 0.5, "hf_subset": lang, "languages": [code]}
        for lang, code in (("en", "eng-Latn"), ("de", "deu-Latn"), ("sw", "swh-Latn"))
    ]
    result = {"task_name": "WIT", "dataset_revision": "r1", "mteb_version": "2.26.1", "scores": {"test": subsets}}
    files = {"model_meta.json": json.dumps({"name": model}), "WIT.json": json.dumps(result)}
    write_files(tmp_path / "mteb" / "results" / model.replace("/", "__") / revision, files)
    return tmp_path / "mteb"


def cells_of(board, name):
    return board.cells[[model.name for model in board.models].index(name)]


def column(board, task="zeroshot_classification", group=ALL, metric="acc1"):
    keys = [(column.task, column.group, column.metric) for column in board.columns]
    return keys.index((task, group, metric))


def test_models_are_rows_best_first_and_means_have_intervals(whole, forgetful):
    board = leaderboard(forgetful, whole)
    assert [model.name for model in board.models] == ["whole", "forgetful"]
    top1 = column(board)
    assert board.columns[top1].languages == sorted(LANGUAGES)
    cell = cells_of(board, "forgetful")[top1]
    assert cell.interval_95[0] < cell.value < cell.interval_95[1] < 1.0
    assert cells_of(board, "whole")[top1].interval_95 == (1.0, 1.0)


def test_groups_of_languages_are_columns_too(whole, forgetful):
    board = leaderboard(whole, forgetful)
    groups = {column.group: column.languages for column in board.columns if column.metric == "acc1"}
    assert groups == {ALL: sorted(LANGUAGES), "high resource": ["de", "en"], "low resource": ["sw", "yo"]}
    (whole_mean, *of_groups) = [cells_of(board, "forgetful")[column(board, group=group)].value for group in groups]
    assert whole_mean == pytest.approx(np.mean(of_groups))


def test_one_language_has_the_interval_of_its_record(tmp_path):
    folder = evaluate(Forgetful(), tmp_path / "one", languages=["yo"])
    board = leaderboard(folder)
    (own,) = [r["interval_95"]["acc1"] for r in read_results(folder / "results.jsonl") if "acc1" in r["metrics"]]
    assert list(board.cells[0][column(board)].interval_95) == own


def test_english_and_local_questions_are_columns_of_their_own(tmp_path):
    folder = evaluate(WordModel(), tmp_path / "cvqa", word_dataset("a", WORDS, ("en", "local")))
    columns = [column for column in leaderboard(folder).columns if column.metric == "acc1"]
    assert [(column.group, column.languages, column.variant) for column in columns] == [
        ("en", ["en"], 0), ("local", ["local"], 0)
    ]  # fmt: skip


def test_a_missing_dataset_or_language_is_missing_and_not_zero(whole, tmp_path):
    fewer = evaluate(WordModel(), tmp_path / "fewer", languages=["en", "de"])
    other = evaluate(WordModel(), tmp_path / "other", word_dataset("b", WORDS[:9], ("en",)))
    board = leaderboard(whole, fewer, other)
    top1 = column(board)
    assert cells_of(board, "fewer")[top1].value is None
    assert cells_of(board, "fewer")[top1].num_languages == 2
    text = to_text(board)
    assert "missing (2 of 4 languages)" in text
    assert "| missing |" in " ".join(text.split())
    record, text = show_leaderboard.function([whole, fewer, other], csv=True)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 * len(board.columns)
    assert "0.0" not in {row["value"] for row in rows}
    assert json.loads(json.dumps(record))["cells"][1][top1]["value"] in (None, 1.0)


@pytest.mark.parametrize("change", ["data", "ties", "crop"])
def test_records_of_other_data_ties_or_preprocessing_get_a_column_of_their_own(whole, tmp_path, change):
    records = read_results(whole / "results.jsonl")
    for record in records:
        if change == "data":
            record["dataset_digest"] = "other"
        elif change == "ties":
            record["protocol"]["ties"] = "first"
        else:
            record["protocol"]["preprocess"] = {"crop": "none"}
    changed = write_files(tmp_path / "changed", {"results.jsonl": jsonl(*records)})
    board = leaderboard(whole, changed)
    variants = [i for i, column in enumerate(board.columns) if column.metric == "acc1" and column.is_main]
    assert [board.columns[i].variant for i in variants] == [1, 2]
    assert [row[i].value is None for row in board.cells for i in variants] in (
        [False, True] * 2,
        [False, True, True, False],
    )
    assert any("a (1), a (2) cannot be compared" in sentence and change in sentence for sentence in board.differences)


def test_sizes_means_and_deviations_of_models_are_no_reason_for_another_column(tmp_path):
    first, second = WordModel(), WordModel()
    first.preprocess = {"resize": "shortest edge 224", "crop": "central 224 x 224", "mean": [0.5]}
    second.preprocess = {"resize": "shortest edge 378", "crop": "central 378 x 378", "mean": [0.4]}
    board = leaderboard(evaluate(first, tmp_path / "first"), evaluate(second, tmp_path / "second"))
    assert board.differences == []


def test_results_of_mteb_are_read_from_each_level_of_their_folder(whole, tmp_path):
    root = mteb_folder(tmp_path)
    for path in (root, root / "results", root / "results/org__one", root / "results/org__one/abc"):
        board = leaderboard(whole, path)
        cell = cells_of(board, "org/one")[column(board, "mteb", ALL, "main_score")]
        assert (cell.value, cell.num_languages) == (0.5, 3)
    assert board.columns[column(board, "mteb", ALL, "main_score")].languages == ["de", "en", "sw"]


def test_two_scripts_of_a_language_both_count(tmp_path):
    root = mteb_folder(tmp_path)
    path = root / "results/org__one/abc/WIT.json"
    result = json.loads(path.read_text())
    result["scores"]["test"] += [
        {"main_score": score, "hf_subset": subset, "languages": [code]}
        for score, subset, code in ((0.1, "zh-CN", "zho-Hans"), (0.3, "zh-TW", "zho-Hant"))
    ]
    path.write_text(json.dumps(result))
    board = leaderboard(root)
    cell = cells_of(board, "org/one")[column(board, "mteb", ALL, "main_score")]
    assert (cell.value, cell.num_languages) == (pytest.approx(1.9 / 5), 5)


def test_mteb_writes_the_layout_that_is_read(tmp_path):
    mteb = pytest.importorskip("mteb")
    task = mteb.get_tasks(tasks=["WITT2IRetrieval"])[0]
    result = mteb.results.task_result.TaskResult.from_task_results(task, {"test": {"en": {"main_score": 0.25}}}, 1.0)
    meta = mteb.models.ModelMeta.create_empty({"name": "org/two", "revision": "abc"})
    mteb.cache.ResultCache(tmp_path).save_to_cache(result, meta)
    (model,) = leaderboard(tmp_path).models
    assert model.name == "org/two"
    assert [(r["dataset"], r["lang"], r["metrics"]) for r in model.runs[0]] == [
        ("WITT2IRetrieval", "en", {"main_score": 0.25})
    ]


def test_all_bad_folders_are_named_at_once(whole, tmp_path):
    cut = write_files(tmp_path / "cut", {"results.jsonl": (whole / "results.jsonl").read_bytes()[:-40]})
    foreign = write_files(tmp_path / "foreign", {"results.jsonl": '{"dataset": "a"}\n5\n'})
    mteb_folder(tmp_path, revision="def")
    bad_json = {"def/cut.json": '{"task_name": "WIT"', "abc/deep.json": "[" * 100_000}
    root = mteb_folder(tmp_path)
    write_files(root / "results/org__one", bad_json)
    with pytest.raises(UserError) as error:
        leaderboard(whole, whole, tmp_path / "nothing", cut, foreign, root)
    problems = error.value.problems
    for expected in (
        "whole is named twice",
        "nothing holds no results",
        "cut/results.jsonl:",
        "foreign/results.jsonl:1",
        "foreign/results.jsonl:2",
        "2 folders are of a model 'org/one'",
        "def/cut.json is not JSON",
        "abc/deep.json is not JSON",
    ):
        assert any(expected in problem for problem in problems), (expected, problems)


def test_a_cut_file_of_ranks_is_an_error_that_names_it(whole):
    (path,) = (whole / "ranks/a/en").glob("zeroshot*.acc.npy")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"zeroshot_classification\.acc\.npy is not a readable array"):
        leaderboard(whole)


def test_names_are_text_on_the_page_which_fits_narrow_and_wide_windows(whole, tmp_path):
    planted = evaluate(Forgetful(), tmp_path / MARKUP.replace("/", "_"), word_dataset(MARKUP, WORDS, LANGUAGES))
    root = mteb_folder(tmp_path, model=MARKUP)
    write_leaderboard(tmp_path / "board.html", leaderboard(whole, planted, root))
    html = (tmp_path / "board.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    with open_page() as page:
        for width in (400, 1400):
            page.resize(width, 900)
            page.open(tmp_path / "board.html")
            assert not page.is_cut()
            assert page.run("window.planted") is None
            assert "missing" in page.run("document.querySelector('table').textContent")
        assert page.errors == []


# --- what is not a row, and what cannot be told apart -----------------------------------------------------------------


def test_a_run_without_results_is_left_out_with_a_note(whole, tmp_path):
    write_files(tmp_path, {"run/recipe.toml": ""})
    board = leaderboard(whole, tmp_path / "run")
    assert [model.name for model in board.models] == ["whole"]
    assert board.left_out == [
        "run has no results yet; evaluate it: worldclip evaluate run"  # without this machine's folders
    ]
    assert board.left_out[0] in to_text(board)
    with pytest.raises(UserError, match="has no results yet"):
        leaderboard(tmp_path / "run")


def test_results_that_are_named_twice_count_once(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run / "evaluate")
    (run / "recipe.toml").write_text("")
    shutil.copytree(whole, tmp_path / "copy")
    board = leaderboard(run, run / "evaluate", tmp_path / "copy")
    assert [len(model.folders) for model in board.models] == [1]
    assert [text.rpartition("; ")[2] for text in board.left_out] == ["they count once"] * 2


@pytest.mark.parametrize(
    ("cells", "chance", "best"),
    [
        ([(0.5, 0.4, 0.6), (0.45, 0.42, 0.48), (0.2, 0.1, 0.3)], 0.25, {0, 1}),
        ([(0.5, 0.4, 0.6), (0.45, 0.42, 0.48)], 0.4, set()),  # the best interval reaches chance
        ([(0.5, None, None), (0.45, None, None)], 0.25, {0}),
        ([(None, None, None), (0.3, 0.28, 0.32)], 0.25, {1}),
        ([(None, None, None)], None, set()),
    ],
)
def test_bold_is_what_cannot_be_told_from_the_best_above_chance(cells, chance, best):
    shown = [
        BoardCell(value=value, interval_95=None if low is None else (low, high), num_languages=1)
        for value, low, high in cells
    ]
    assert best_cells(shown, chance) == best


def test_seeds_of_a_model_have_their_spread_and_the_last_row_is_chance(whole):
    board = leaderboard(whole)
    top1 = column(board)
    records = [record for record in read_results(whole / "results.jsonl") if "acc1" in record["metrics"]]
    assert board.columns[top1].chance == pytest.approx(np.mean([record["chance"]["acc1"] for record in records]))
    lines = [line for line in to_text(board).splitlines() if line.startswith("|")]
    assert lines[-1].split("|")[1].strip() == "chance"
    cells = list(board.cells[0])
    cells[top1] = dataclasses.replace(cells[top1], seeds=(0.25, 0.5))
    assert "2 seeds: 25.0 to 50.0" in to_text(dataclasses.replace(board, cells=[cells]))


def test_the_page_names_no_folder_of_the_machine(whole, tmp_path):
    write_leaderboard(tmp_path / "page.html", leaderboard(whole))
    page = (tmp_path / "page.html").read_text("utf-8")
    assert str(tmp_path) not in page
    assert "whole" in page
