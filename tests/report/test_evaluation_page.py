"""The page of an evaluation, in few languages and in many."""

from __future__ import annotations

import re

import numpy as np
import pytest

from evaluated import caption_files, record, webdataset_files
from made_up_world import made_up_world
from miniature import write_files
from model_folders import put_any_model_in_hub_cache
from worldclip.cli import main
from worldclip.core.artifacts import write_json
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.report import held_out_combinations, task_result
from worldclip.evaluate.stage import _gallery_languages, evaluate_model
from worldclip.language import table as languages
from worldclip.language.table import INSTALLED
from worldclip.model import load as model_load
from worldclip.pool.builders import HeldOut, write_held_out
from worldclip.report import balance, by_language, curate, write_evaluation
from worldclip.report.by_language import find_language, languages_section
from worldclip.report.evaluate import held_out_section, published_section, results_section
from worldclip.report.language_map import language_map
from worlds import WordModel, word_dataset

LANGUAGES = ("en", "de", "sw", "zh_yue", "tha_Thai", "klingon")


class Weak(WordModel):
    """A model that knows English, and every second word of other languages."""

    def encode_text(self, texts):
        texts = [text if text.startswith("en/") or text[-1] in "02468" else f"{text}?" for text in texts]
        return super().encode_text(texts)


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    put_any_model_in_hub_cache("me/model", tmp_path, monkeypatch)

    def run(model, name, **values):
        words = [f"word{i}" for i in range(12)]
        monkeypatch.setattr(model_load, "load", lambda source, **options: model)
        monkeypatch.setattr(
            datasets, "load", lambda name, config, run_dir, languages: word_dataset(name, words, LANGUAGES)
        )
        evaluate_model("me/model", EvaluateConfig(datasets=("emoji_base",), **values), tmp_path / name)
        return tmp_path / name

    return run


def test_page_sorts_languages(evaluate, tmp_path):
    about = "Every emoji without a skin tone."
    write_held_out(tmp_path / "out" / "pool", {"emoji_base": HeldOut("names:base", about)})
    page = write_evaluation(evaluate(Weak(), "out")).read_text(encoding="utf-8")
    order = re.findall(r"<code>(\w+)</code>", page[page.index('id="by-language"') :])
    assert order[0] == "en"
    assert set(order[:6]) == set(LANGUAGES)
    hover = r"Swahili sw: [\w -]+ \d+\.\d%, \d+\.\d% to \d+\.\d%, chance \d+\.\d%; 12 queries; Atlantic-Congo, Latin"
    assert re.search(f'title="{hover}"', page)
    assert "http://" not in page
    assert f"<dt>emoji_base</dt><dd>{about}</dd>" in page


def test_more_languages_than_bars_are_a_map(evaluate, monkeypatch):
    monkeypatch.setattr(by_language, "MAX_BARS", len(LANGUAGES) - 1)
    page = write_evaluation(evaluate(Weak(), "out")).read_text(encoding="utf-8")
    assert re.search('<span class="c [a-z0-9-]+" title="Swahili sw: ', page)
    assert "To find a language" in page


def test_language_codes_of_datasets_are_resolved():
    codes = ("zh_yue", "deu_Latn", "sw", "klingon", "xx_Xxxx")
    assert [getattr(find_language(code, INSTALLED), "code", None) for code in codes] == ["zh", "de", "sw", None, None]


def test_many_languages_without_chance_are_bars_and_the_last_are_folded(monkeypatch):
    monkeypatch.setattr(by_language, "MAX_BARS", 2)
    recalls = {"text_retrieval_recall@1": 0.5, "image_retrieval_recall@1": 0.25}
    records = [record(lang, **recalls) for lang in ("en", "de", "sw")]
    _, numbers = sections_of("image_text_retrieval", records)
    in_sight, _, others = numbers.partition("<summary>1 more languages</summary>")
    assert in_sight.count('class="l"') == 2
    assert others.count('class="l"') == 1


def test_an_evaluation_without_results_or_published_numbers_has_no_such_sections():
    assert languages_section({}, INSTALLED) is None
    assert published_section({"datasets": {}}) is None


def sections_of(task, records, name="set"):
    """Return the HTML of the results and of the numbers by language of a dataset with one task."""
    records = [{**record, "dataset": name, "task": task} for record in records]
    result = task_result(name, task, {record["lang"]: record for record in records})
    datasets = {name: {"num_images": 4, "num_bad_images": 1, "tasks": {task: result}}}
    return results_section({"datasets": datasets}).body, languages_section(datasets, INSTALLED).body


def cells(body):
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", body)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]


def test_results_are_one_table_and_english_and_local_questions_are_not_averaged():
    shared = {"n": 4, "chance": {"accuracy": 0.25}, "intervals": {"accuracy": (0.1, 0.9)}}
    records = [
        record(lang, accuracy=value, slices={"country Kenya": {"accuracy": value}}, **shared)
        for lang, value in (("en", 0.5), ("local", 0.25))
    ]
    results, parts = sections_of("choice", records)
    assert cells(results)[1:] == [
        ["set", "choice", "accuracy", "50.0%", "", "en", "10.0% to 90.0%", "4"],
        ["", "", "accuracy", "25.0%", "", "local", "10.0% to 90.0%", "4"],
    ]
    assert "1 images could not be decoded" in results
    assert ["country Kenya", "50.0%", "25.0%", "3"] in cells(parts)
    assert "mean over" not in parts


def test_metrics_that_a_part_lacks_are_absent_and_distances_are_not_percentages():
    records = [record(lang, intervals={"alignment": (1.0, 1.5)}, alignment=1.25) for lang in ("en", "de")]
    results, numbers = sections_of("alignment_uniformity", records)
    assert cells(results)[1] == ["set", "alignment uniformity", "alignment", "1.250", "2"]
    assert ["mean over 2", "1.250", ""] in cells(numbers)
    _, parts = sections_of("zeroshot_classification", [record(acc1=0.5, slices={"region Asia": {"acc1": 1.0}})])
    assert ["part", "top-1", "queries"] in cells(parts)
    assert ["region Asia", "100.0%", "3"] in cells(parts)


def test_a_metric_that_the_catalog_derives_is_the_headline():
    regions = record(acc1=0.5, slices={"region 0": {"acc1": 0.75}, "region 1": {"acc1": 0.25}})
    results, _ = sections_of("zeroshot_classification", [regions], "geode_datacomp")
    assert cells(results)[1][:4] == ["geode_datacomp", "zero-shot classification", "worst region top-1", "25.0%"]


def test_a_suite_has_its_mean_or_says_what_is_missing():
    task = task_result("pets", "zeroshot_classification", {"en": record("en", "pets", acc1=0.5)})
    report = {"datasets": {"pets": {"num_bad_images": 0, "tasks": {"zeroshot_classification": task}}}}
    complete = results_section({**report, "suite": {"name": "slip26", "mean": 0.625, "missing": []}}).body
    assert "<b>62.5%</b><span>suite slip26</span>" in complete
    incomplete = results_section({**report, "suite": {"name": "slip26", "mean": None, "missing": ["cars", "dtd"]}}).body
    assert "No mean for suite slip26: 2 datasets are missing: cars, dtd." in incomplete


def test_published_numbers_are_flagged_and_escaped():
    row = {
        "title": "CVQA <LOCAL>", "ours_pct": 50.0, "published_pct": 57.4, "difference_pct": -7.4, "differs": True,
        "over": "local", "source": "abstract", "is_secondary": True, "protocol": "micro"
    }  # fmt: skip
    body = published_section({"published": {"against": "ViT", "rows": [row]}}).body
    assert "CVQA &lt;LOCAL&gt;" in body
    assert "<b>-7.4 !</b>" in body
    assert "(secondary)" in body


def test_evaluate_command_takes_any_model_and_reports_mistakes(tmp_path, monkeypatch, capsys):
    put_any_model_in_hub_cache("me/model", tmp_path, monkeypatch)
    words = [f"word{i}" for i in range(6)]
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    monkeypatch.setattr(datasets, "load", lambda name, config, run_dir, languages: word_dataset(name, words))
    arguments = ["evaluate", "me/model", "--out", str(tmp_path / "out"), "--datasets", "emoji_base"]
    assert main(arguments) == 0
    assert "### emoji_base" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").exists()
    assert main(["evaluate", "me/model", "--out", str(tmp_path / "x"), "--suite", "paper"]) == 2
    assert 'evaluate.data = "": must be the folder of' in capsys.readouterr().err
    assert main(["fetch", "dataset", "hateful_memes", "--out", str(tmp_path)]) == 2
    assert "by hand: accept its terms" in capsys.readouterr().err.replace("\n", " ")


def test_unknown_model_in_against_is_an_error_before_any_work(tmp_path):
    (tmp_path / "pets").mkdir()  # an empty folder: reading it would be another error
    config = EvaluateConfig(suite="paper", data=str(tmp_path), allow_missing=True, against="ViT-Z")
    with pytest.raises(UserError, match=r"against.*unknown model"):
        evaluate_model("me/model", config, tmp_path / "out")


def test_suite_paper_prints_the_papers_table_for_available_datasets(tmp_path, monkeypatch, capsys):
    put_any_model_in_hub_cache("me/model", tmp_path, monkeypatch)
    write_files(tmp_path / "data/pets", webdataset_files(("cat", "dog"), ("cat", "owl")))
    write_files(tmp_path / "data/xm3600", caption_files(("cat", "dog"), langs=("en", "sw")))
    monkeypatch.setattr(model_load, "load", lambda source, **options: WordModel())
    arguments = ["evaluate", "me/model", "--out", str(tmp_path / "out"), "--suite", "paper"]
    arguments += ["--protocol", "own"]  # SLIP's names need all 37 breeds
    assert main([*arguments, "--data", str(tmp_path / "data"), "--allow-missing"]) == 0
    printed = capsys.readouterr().out
    rows = {tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in printed.splitlines() if "|" in line}
    assert ("Oxford-IIIT Pets", "mean_per_class_recall", "en", "100.0") in rows
    assert ("Crossmodal-3600", "text_retrieval_recall@1", "2 of 36", "100.0") in rows
    assert ("CVQA", "accuracy", "0", "missing") in rows
    assert ("XM3600 image > text R@1", "100.0", "64.3", "+35.7 !", "2 of 36", "abstract and README") in rows
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "Published numbers" in page


def test_gallery_shows_a_language_of_each_script_english_first() -> None:
    codes = ["ab", "am", "ar", "bg", "de", "el", "en", "hi", "ka", "ko", "ru", "sw", "th", "ti", "yo", "zh", "xx_Xxxx"]
    chosen = _gallery_languages(codes, INSTALLED)
    assert chosen[0] == "en"
    assert len(chosen) == 10
    scripts = [find_language(code, INSTALLED).script for code in chosen]
    assert len(set(scripts)) == 10
    assert chosen[1] in ("bg", "ru")  # of Cyrillic, which three of them use, one with many resources
    assert _gallery_languages([], INSTALLED) == []


CODES = sorted(code for code in languages.by_code() if code != "other")


def scored(value, chance=0.01, n=100, num_classes=500, low=None):
    metrics = {"acc1": value / 2, "acc5": value}
    bounds = [value - 0.05 if low is None else low, value + 0.05]
    return {"n": n, "metrics": metrics, "chance": {"acc1": chance / 5, "acc5": chance}, "num_classes": num_classes,
            "interval_95": {"acc5": bounds, "acc1": bounds}}  # fmt: skip


def test_cells_are_sorted_and_coloured_by_times_chance():
    values = {"sw": 0.02, "yo": 0.4, "zu": 1.0, "ig": 0.2, "sn": 0.03, "en": 0.3, "xh": 0.029}
    records = {lang: scored(value, low=None if lang == "sw" else value) for lang, value in values.items()}
    families = {**dict.fromkeys(values, "Atlantic-Congo"), "en": "Indo-European"}
    drawn = language_map(records, "acc5", families, {lang: f"<{lang}>" for lang in values})
    cells = re.findall(r'<span class="c ([\w-]+)" title="&lt;(\w+)&gt;"><b>\2</b><small>([\d.,]+×)</small>', drawn)
    assert cells == [
        ("step4", "zu", "100×"), ("step3", "yo", "40×"), ("step2", "ig", "20×"), ("step1", "sn", "3.0×"),
        ("step0", "xh", "2.9×"), ("at-chance", "sw", "2.0×"), ("step3", "en", "30×"),
    ]  # fmt: skip
    assert "Atlantic-Congo <small>6</small>" in drawn
    assert "other families <small>1</small>" in drawn  # a family of one has no heading


def test_language_without_chance_or_family_has_no_cell():
    records = {"sw": scored(0.5), "klingon": scored(0.5), "yo": {**scored(0.5), "chance": {}}}
    drawn = language_map(records, "acc5", {"sw": "Atlantic-Congo", "yo": "Atlantic-Congo"}, dict.fromkeys(records, ""))
    assert re.findall(r"<b>(\w+)</b>", drawn) == ["sw"]
    assert language_map({}, "acc5", {}, {}) == ""


def test_held_out_pictures_are_beside_the_others():
    random = np.random.default_rng(0)
    hits, is_held = random.random(250) < 0.4, np.arange(250) % 10 == 0
    chance = {"acc1": 1 / 250}

    def of(mask):
        return {"n": int(mask.sum()), "metrics": {"acc1": float(hits[mask].mean())}, "chance": chance}

    whole, held = of(np.ones(250, bool)), of(is_held)
    other = {**held, "chance": {"acc1": 0.5}}  # among other names: not comparable
    records = {"flags": {"sw": whole, "yo": whole}, "flags_held": {"sw": held, "yo": other}}
    (row,) = held_out_combinations(records)
    assert (row["dataset"], row["lang"], row["num_seen"], row["num_held"]) == ("flags", "sw", 225, 25)
    assert (row["seen"], row["held"]) == (pytest.approx(hits[~is_held].mean()), hits[is_held].mean())
    assert held_out_combinations({"flags": {"sw": whole}}) == []
    table = cells(held_out_section({"held_out": [row]}, INSTALLED).body)
    assert table[2][:2] == ["flags", "mean over 1"]
    assert table[1][3:] == [*table[2][3:6], "225", "25"]


def test_page_of_all_languages_has_map_and_held_out_table(tmp_path):
    write_json(tmp_path / "report.json", made_up_world())
    page = write_evaluation(tmp_path).read_text(encoding="utf-8")
    codes = {lang for _, lang in re.findall(r'class="c ([\w-]+)"[^>]*><b>(\w+)</b>', page)}
    assert len(codes) > 300
    assert 'id="held-out-combinations"' in page
    assert re.search(r"Mean over \d+ languages, by their codes", page)
    assert '<th class="n">times chance</th>' in page
    assert "<td>Atlantic-Congo, Latin, low</td>" in page
    table = page[page.index("All metrics of zero-shot classification, languages by name") :].partition("</table>")[0]
    names = re.findall(r"<tr><td>([^<]+) <code>", table)
    assert len(names) > 300
    assert names == sorted(names, key=str.casefold)
    assert len(page) < 2_000_000
    for forbidden in ("<script", "http://"):
        assert forbidden not in page


def rows_in_sight(body: str) -> int:
    """Return the number of table rows and bars outside of folded parts."""
    while (without := re.sub(r"<details>(?:(?!<details>).)*?</details>", "", body, flags=re.DOTALL)) != body:
        body = without
    return body.count("<tr") + body.count('class="l"')


def test_what_was_kept_shows_the_largest_languages_and_folds_the_others():
    row = {"pairs_in": 10, "pairs_out": 5, "sampled_out": 5, "expected_pairs": 5.0}
    report = {"text_policy": "all", "languages": dict.fromkeys(CODES, row), "effect": {}, "samples": {}}
    first = curate.sections(report, languages.INSTALLED)[0].body
    assert rows_in_sight(first) == curate.MAX_BARS
    assert first.count("<code>") == 2 * len(CODES)


def test_thresholds_and_head_entries_fold_small_lists():
    entry = {"entry": "<b>", "source": "pool", "matches": 7, "prob": 0.5}
    curve = {"rank": [1, 2], "matches": [7, 3], "balanced": [3, 3], "effective_entries": [2.0, 2.0]}
    lists = {
        code: {"threshold": 3, "tail_fraction": 0.1, "num_entries": 9, "num_matched_entries": 2, "num_matches": 10 + n}
        for n, code in enumerate(CODES)
    }
    report = {"lists": lists, "warnings": [], "curves": dict.fromkeys(CODES, curve),
              "top_entries": {code: [entry] * 12 for code in CODES}}  # fmt: skip
    thresholds, heads = balance.sections(report, languages.INSTALLED)
    assert rows_in_sight(thresholds.body) == balance.MAX_ROWS + 1
    assert thresholds.body.count('<td class="n">10.0%</td>') == len(CODES)
    assert rows_in_sight(heads.body) == balance.OPEN_LISTS * (balance.HEAD_ENTRIES + 1)
    assert "&lt;b&gt;" in heads.body
    for code in CODES:
        assert f"<code>{code}</code>" in heads.body
