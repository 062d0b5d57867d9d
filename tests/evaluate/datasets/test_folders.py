"""Any folder of class folders, ImageNet's among them."""

from __future__ import annotations

import json

import pytest

from miniature import records_of, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import folders

IMAGES = {"test/polar_bear/1.png": "polar bear", "test/cat/1.png": "cat", "test/cat/deep/2.jpg": "dog"}


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, {**IMAGES, "templates.txt": "a/{}\n"})
    return tmp_path


def test_classes_have_the_names_of_their_folders(folder):
    record = records_of(folders.load("mine", folder), folder)["en"]
    assert (record["n"], record["num_classes"], record["protocol"]["names"]) == (3, 2, "folders")
    assert record["metrics"]["mean_per_class_recall"] in (0.5, 0.75, 1.0)
    assert folders.load("mine", folder).image_keys == ["cat/1.png", "cat/deep/2.jpg", "polar_bear/1.png"]


def test_names_templates_and_languages_come_from_files(folder, tmp_path):
    names = {"de": {"classes": ["x/cat", ["x/polar bear", "y/bear"]]}}
    write_files(folder, {"classnames.txt": "cat\npolar bear\n", "languages.json": json.dumps(names)})
    write_files(folder, {"elsewhere/fr.json": json.dumps({"fr": {"classes": ["z/cat", "z/polar bear"]}})})
    found = records_of(folders.load("mine", folder, names_path=folder / "elsewhere/fr.json"), folder)
    assert list(found) == ["en", "de", "fr"]
    assert found["en"]["protocol"]["names"] == "given"
    assert found["fr"]["metrics"]["acc1"] >= 2 / 3


def test_wordnet_ids_get_openais_names_and_templates(tmp_path):
    pytest.importorskip("open_clip")
    write_files(tmp_path, {"n01440764/1.jpg": "a", "n15075141/1.jpg": "b", "n02391049/1.jpg": "c"})
    task = folders.load("imagenet-r", tmp_path).tasks("en")[0]
    assert task.class_names == [["tench"], ["zebra"], ["toilet paper"]]
    assert len(task.templates) == 80
    write_files(tmp_path, {"n00000001/1.jpg": "a"})
    with pytest.raises(UserError, match="n00000001 is no class of ImageNet-1k"):
        folders.load("imagenet-r", tmp_path)


def test_folders_0_to_999_are_imagenet_v2s_classes(tmp_path):
    pytest.importorskip("open_clip")
    write_files(tmp_path, {f"{number}/1.jpg": "a" for number in range(1000)})
    task = folders.load("imagenetv2", tmp_path).tasks("en")[0]
    names = [name[0] for name in task.class_names]
    assert (names[0], names[1]) == ("tench", "goldfish")  # folders sort as text: 0, 1, 10, ...
    assert task.class_names[sorted(map(str, range(1000))).index("340")] == ["zebra"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classnames.txt": "cat\n"}, "has 1 names; there are 2 folders"),
        ({"templates.txt": "a photo\n"}, "'a photo' has no place for the class"),
        ({"test/empty/note.md": ""}, "empty holds no image"),
        ({"languages.json": '{"de": {}}'}, 'de has no "classes"'),
        ({"languages.json": '{"de": {"classes": ["a", []]}}'}, "de has no name for class 1"),
        ({"languages.json": '{"de": {"classes": ["a"]}}'}, "de has 1 classes; the dataset has 2"),
        ({"languages.json": '{"de": {"classes": ["a", "b"], "templates": []}}'}, "has no template"),
    ],
)
def test_invalid_files_are_named(folder, files, message):
    write_files(folder, files)
    with pytest.raises(UserError, match=message):
        folders.load("mine", folder)


def test_single_class_folder_is_an_error(tmp_path):
    write_files(tmp_path, {"cat/1.png": "cat"})
    with pytest.raises(UserError, match="has 1 folders; it must have one per class"):
        folders.load("mine", tmp_path)
