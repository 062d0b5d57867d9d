"""SLIP's class names and templates: what they are, and that each label gets its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluated import record, webdataset_files
from miniature import write_files
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets, engine, slip, suites
from worldclip.evaluate.catalog import DATACOMP38, SLIP26
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.slip import names_by_dataset, slip_order
from worldclip.report.metrics import CLASSIFICATION, SLIP_CLASSIFICATION
from worlds import WordModel

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


def test_synonyms_of_a_class_stand_together():
    fer2013 = ["angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised"]
    assert names_in_label_order("fer2013", fer2013)[3:] == [
        ["happy", "smiling"], ["neutral", "bored"], ["sad", "depressed"], ["surprised", "shocked", "spooked"],
    ]  # fmt: skip


def test_labels_find_their_names_in_another_order_than_slips():
    ours = names_in_label_order("pets", PETS)
    assert [name.casefold() for (name,) in ours] == [name.casefold() for name in PETS]
    assert slip_order(PETS, names_by_dataset()["pets"]) != list(range(37))
    clevr = ["three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert names_in_label_order("clevr_count", clevr) == [[str(number)] for number in range(3, 11)]
    assert names_in_label_order("ucf101", [name.replace(" ", "") for (name,) in names_by_dataset()["ucf101"].classes])
    assert names_in_label_order("hateful_memes", ["a", "b"]) == [["meme"], ["hatespeech meme"]]


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


@pytest.mark.parametrize(
    ("dataset", "class_names", "message"),
    [
        ("pets", ["Abyssinian", "Otter", *PETS[2:]],
         'Only in the folder: Otter. Only in SLIP\'s: american bulldog. .*evaluate.classes = "folder"'),
        ("pets", [*PETS, "pug"], "38 classes in the folder, 37 of SLIP's"),
        ("pets", ["pug"], r"Only in SLIP's: .*, \.\.\. \(36\)"),
        ("hateful_memes", ["a", "b", "c"], "the folder has 3 classes, SLIP's dataset 2"),
    ],
)  # fmt: skip
def test_classes_that_slip_does_not_have_are_named_with_the_remedy(dataset, class_names, message):
    with pytest.raises(UserError, match=message):
        slip_order(class_names, names_by_dataset()[dataset])


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
