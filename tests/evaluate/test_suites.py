"""Suites, published numbers, and SLIP's class names."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from evaluated import record, webdataset_files
from miniature import write_files
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine, slip, suites
from worldclip.evaluate.catalog import CATALOG, DATACOMP38, SLIP26, SUITES
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.slip import names_by_dataset, slip_order
from worldclip.evaluate.tables import beside_text, suite_text
from worldclip.report.metrics import CLASSIFICATION, SLIP_CLASSIFICATION
from worldclip.tools.fetch_dataset import names_to_fetch
from worlds import WordModel


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
    figures = {row["figure"]: row for row in suites.figures()}
    rows = suites.published()
    assert {row["figure"] for row in rows} == set(figures)
    assert all(0 < float(row["value_pct"]) < 100 and row["source"] for row in rows)
    assert len({(row["model"], row["figure"]) for row in rows}) == len(rows)
    headline = suites.of_model("ViT-H/14 worldwide 2.3x")
    names = ("imagenet", "babel_imagenet", "xm3600_i2t", "cvqa_local")
    assert [headline[name]["value_pct"] for name in names] == ["81.3", "50.2", "64.3", "57.4"]
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
    num_templates = {dataset: len(of_dataset.templates) for dataset, of_dataset in names.items()}
    assert {dataset: num for dataset, num in num_templates.items() if num > 6} == {
        "cifar10": 18, "cifar100": 18, "kinetics700": 28, "ucf101": 48, "resisc45": 18, "caltech101": 34, "dtd": 8,
        "cars": 8,
    }  # fmt: skip


def test_labels_find_their_names_in_another_order_than_slips():
    ours = names_in_label_order("pets", PETS)
    assert [name.casefold() for (name,) in ours] == [name.casefold() for name in PETS]
    assert slip_order(PETS, names_by_dataset()["pets"]) != list(range(37))
    clevr = ["three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert names_in_label_order("clevr_count", clevr) == [[str(number)] for number in range(3, 11)]
    assert names_in_label_order("ucf101", [name.replace(" ", "") for (name,) in names_by_dataset()["ucf101"].classes])
    assert names_in_label_order("hateful_memes", ["a", "b"]) == [["meme"], ["hatespeech meme"]]
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
    config = EvaluateConfig(datasets=("pets",), data=str(tmp_path), classes="slip")
    dataset = datasets.load("pets", config, tmp_path)
    slips = dataset.tasks("en")[1]
    assert slips.templates == ["a photo of a {}, a type of pet."]
    records, _, _ = engine.evaluate(CasefoldModel(), {"model": "m"}, [dataset], [], tmp_path / "out/results.jsonl")
    by_task = {record["task"]: record for record in records}
    assert list(by_task) == ["zeroshot_classification", "zeroshot_classification_slip"]
    assert [record["metrics"]["acc1"] for record in records] == [1, 1]
    assert by_task[SLIP_CLASSIFICATION]["protocol"]["names"] == "facebookresearch/SLIP"
    assert by_task["zeroshot_classification"]["protocol"]["names"] == "given"
    assert len(datasets.load("pets", replace(config, classes=None), tmp_path).tasks("en")) == 1


def test_slip26_averages_slips_names_and_datacomp_the_folders():
    values = {CLASSIFICATION: 0.25, SLIP_CLASSIFICATION: 0.75}
    records = [record("en", "pets", task, mean_per_class_recall=value) for task, value in values.items()]
    assert "pets" in DATACOMP38

    def number(suite, records):
        return next(row.value for row in suites.suite_rows(suite, records) if row.dataset == "pets")

    assert (number("slip26", records), number("paper", records), number("datacomp38", records)) == (0.75, 0.75, 0.25)
    assert (number("slip26", records[:1]), number("datacomp38", records[1:])) == (0.25, None)


@pytest.mark.parametrize(
    ("dataset", "class_names", "message"),
    [
        ("pets", ["Abyssinian", "Otter", *PETS[2:]], "Otter.*american bulldog"),
        ("pets", [*PETS, "pug"], "38 classes"),
        ("hateful_memes", ["a", "b", "c"], "3 classes"),
    ],
)
def test_classes_that_slip_does_not_have_are_named(dataset, class_names, message):
    with pytest.raises(UserError, match=message):
        slip_order(class_names, names_by_dataset()[dataset])
