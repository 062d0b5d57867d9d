"""Suites, the catalog and published numbers: the number of each dataset, means, and flags."""

from __future__ import annotations

import pytest

from evaluated import record
from worldclip.core.errors import UserError
from worldclip.evaluate import suites
from worldclip.evaluate.catalog import CATALOG, DATACOMP38, SLIP26, SUITES
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.tables import beside_text, suite_text
from worldclip.tools.fetch_dataset import names_to_fetch


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


def slip(value):
    metrics = {"acc1": value, "acc5": value, "mean_per_class_recall": value, "roc_auc": value}
    return [record(dataset=name, **metrics) for name in SLIP26]


def test_suite_has_a_mean_only_if_no_dataset_is_missing():
    assert suites.suite_mean("slip26", slip(0.5)) == (pytest.approx(0.5), [])
    assert suites.suite_mean("slip26", slip(0.5)[1:]) == (None, ["food101"])
    text = suite_text("slip26", slip(0.5)[1:])
    assert "| Food-101" in text
    assert "No mean: 1 datasets are missing: food101." in text
    assert "Mean over datasets: 50.0." in suite_text("slip26", slip(0.5))


def test_english_suites_ignore_other_languages_and_cvqa_has_two_rows():
    both = [record(lang, "pets", mean_per_class_recall=value) for lang, value in (("en", 0.5), ("de", 0.1))]
    row = next(row for row in suites.suite_rows("slip26", both) if row.dataset == "pets")
    assert (row.value, row.languages) == (0.5, ("en",))
    cvqa = [record("en", "cvqa", accuracy=0.6), record("local", "cvqa", accuracy=0.4)]
    rows = [row for row in suites.suite_rows("multilingual", cvqa) if row.dataset == "cvqa"]
    assert [row.value for row in rows] == [0.6, 0.4]
    lines = [line.replace(" ", "") for line in suite_text("multilingual", cvqa).splitlines() if "CVQA" in line]
    assert lines == ["|CVQA|accuracy|en|60.0|", "|CVQA|accuracy|local|40.0|"]


def test_mean_over_some_of_a_datasets_languages_says_so():
    shown = {"": "0", "a": "a", "abcd": "4 of 11", "abcdefghijk": "11"}
    for langs, text in shown.items():
        row = suites.DatasetRow(dataset="xtd10", metric="", value=0.5, languages=tuple(langs))
        assert suites.languages_of(row) == text


def test_published_numbers_have_known_figures_and_a_source():
    figures = suites.figures()
    rows = suites.published()
    assert {row.figure for row in rows} == set(figures)
    assert all(0 < row.value_pct < 100 and row.source for row in rows)
    assert len({(row.model, row.figure) for row in rows}) == len(rows)
    headline = {row.figure: row for row in rows if row.model == "ViT-H/14 worldwide 2.3x"}
    assert [headline[name].value_pct for name in ("imagenet", "babel_imagenet", "xm3600_i2t", "cvqa_local")] == [
        81.3, 50.2, 64.3, 57.4,
    ]  # fmt: skip
    assert not headline["imagenet"].is_secondary
    assert headline["slip26"].is_secondary
    for figure in figures.values():
        name = figure.dataset.removeprefix("suite:")
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
    text = beside_text(list(rows.values()), "ViT-H/14 worldwide 2.3x")
    assert "| CVQA LOCAL " in text
    assert "-7.4 !" in text
    assert "(secondary)" in text
    with pytest.raises(UserError, match=r"unknown model 'ViT-Z' in evaluate\.against; known models: .*ViT-H/14"):
        suites.beside(records, "ViT-Z")


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
    ("keys", "ties", "preprocess", "uses_slip_names"),
    [
        ({}, "against", "source", False),
        ({"suite": "slip26"}, "against", "source", False),
        ({"suite": "multilingual"}, "against", "source", False),
        ({"suite": "paper"}, "first", "reference", True),
        ({"suite": "paper", "protocol": "own", "preprocess": "reference"}, "against", "reference", False),
        ({"suite": "paper", "classes": "folder"}, "first", "reference", False),
        ({"classes": "slip"}, "against", "source", True),
    ],
)
def test_suite_paper_has_the_papers_protocol_unless_told_otherwise(keys, ties, preprocess, uses_slip_names):
    config = EvaluateConfig(**keys)
    assert (config.tie_rule, config.preprocess_rule, config.uses_slip_names) == (ties, preprocess, uses_slip_names)
