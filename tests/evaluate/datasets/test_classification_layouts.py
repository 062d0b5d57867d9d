"""Layouts of classes in miniature: WebDataset, folders, Babel-ImageNet, Dollar Street, GeoDE, Google Landmarks."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from miniature import read, records_of, write_files
from upstream import array
from worldclip.core.errors import UserError
from worldclip.evaluate import datasets
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.datasets import babel_imagenet
from worldclip.evaluate.suites import value

GERMAN = {"classes": ["x/cat", ["x/dog", "y/dog"], "x/owl"], "templates": ["ein/{}"]}
WEBDATASET = {
    "classnames.txt": "cat\ndog\nowl\n",
    "zeroshot_classification_templates.txt": "a photo of/{c}\nart of/{c}\n",
    "languages.json": json.dumps({"de": GERMAN}),
    "test/nshards.txt": "2\n",
    "test/0.tar": {"s0.jpg": b"cat", "s0.cls": b"0", "s1.cls": b"1", "s1.jpg": b"dog"},
    "test/1.tar": {
        "s2.webp": b"owl", "s2.cls": b"2", "s3.png": b"dog", "s3.cls": b"1\n", "s4.jpg": b"cat", "s4.cls": b"2"
    },
}  # fmt: skip
"""Five images of three classes in two tars, two templates, German names beside the English ones."""


def one_tar(members, **files):
    return {**WEBDATASET, "test/nshards.txt": "1\n", "test/0.tar": members, "test/1.tar": None, **files}


def test_webdataset_is_asked_in_every_language_that_has_names(tmp_path):
    found = records_of(read("webdataset", tmp_path, WEBDATASET), tmp_path)
    assert list(found) == ["en", "de"]
    assert found["en"]["metrics"]["acc1"] == found["de"]["metrics"]["acc1"] == 4 / 5  # s4 says owl and shows a cat
    assert found["en"]["metrics"]["mean_per_class_recall"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert (found["en"]["protocol"]["templates"], found["de"]["protocol"]["templates"]) == (2, 1)


def test_labels_change_the_digest_and_only_images_that_of_the_cached_features(tmp_path):
    before = read("webdataset", tmp_path, WEBDATASET)
    after = read("webdataset", tmp_path, {"classnames.txt": "cat\ndog\nbird\n"})
    assert before.digest != after.digest
    assert before.images_digest == after.images_digest


def test_npy_holds_several_classes_per_image(tmp_path):
    members = {"a.jpg": b"cat", "a.npy": array([1, 0, 1]), "b.jpg": b"dog", "b.npy": array([0, 1, 0])}
    files = one_tar(members, **{"dataset_type.txt": "multilabel\n"})
    record = records_of(read("webdataset", tmp_path, files), tmp_path)["en"]
    assert (record["task"], record["n"]) == ("multilabel_classification", 2)
    assert 0.5 < record["metrics"]["mean_average_precision"] <= 1.0


def test_datacomp_groups_are_parts_and_the_worst_represents_fmow(tmp_path):
    members = {}
    samples = [(b"cat", 0, 0), (b"dog", 1, 0), (b"owl", 2, 1), (b"cat", 2, 1), (b"cat", 1, 5)]
    for i, (word, label, region) in enumerate(samples):
        members |= {f"{i}.jpg": word, f"{i}.cls": str(label).encode(), f"{i}.npy": array([region, 3, label])}
    record = records_of(read("webdataset", tmp_path, one_tar(members), name="fmow"), tmp_path)["en"]
    assert {name: part["metrics"]["acc1"] for name, part in record["slices"].items()} == {
        "region 0": 1.0, "region 1": 0.5,
    }  # fmt: skip
    assert value(CATALOG["fmow"].metrics[0], record) == 0.5


def test_imagenet_always_uses_openais_names_and_templates(tmp_path):
    pytest.importorskip("open_clip")
    files = {**WEBDATASET, "languages.json": None}
    task = read("webdataset", tmp_path, files, name="imagenet1k").tasks("en")[0]
    assert (len(task.class_names), len(task.templates), task.protocol["names"]) == (1000, 80, "imagenet")


def test_train_split_is_read_only_for_probes(tmp_path):
    train = {"train/nshards.txt": "1\n", "train/0.tar": {"s0.jpg": b"owl", "s0.cls": b"2"}}
    assert read("webdataset", tmp_path, {**WEBDATASET, **train}).is_train is None
    dataset = read("webdataset", tmp_path, with_train=True)
    assert dataset.is_train.tolist() == [False] * 5 + [True]
    assert dataset.labels["class"] == ["0", "1", "2", "1", "2", "2"]
    assert dataset.tasks("en")[0].image_idx.tolist() == [0, 1, 2, 3, 4]
    assert dataset.image_keys[5] == "train/0/s0"


FOLDERS = {
    "test/polar_bear/1.png": "polar bear",
    "test/cat/1.png": "cat",
    "test/cat/deep/2.jpg": "dog",
    "templates.txt": "a/{}\n",
}


def test_classes_have_the_names_of_their_folders(tmp_path):
    dataset = read("folders", tmp_path, FOLDERS)
    assert dataset.image_keys == ["cat/1.png", "cat/deep/2.jpg", "polar_bear/1.png"]
    record = records_of(dataset, tmp_path)["en"]
    assert (record["n"], record["num_classes"], record["protocol"]["names"]) == (3, 2, "folders")
    assert record["metrics"]["mean_per_class_recall"] in (0.5, 0.75, 1.0)


def test_names_templates_and_languages_come_from_files(tmp_path):
    names = {"de": {"classes": ["x/cat", ["x/polar bear", "y/bear"]]}}
    files = {**FOLDERS, "classnames.txt": "cat\npolar bear\n", "languages.json": json.dumps(names)}
    files["elsewhere/fr.json"] = json.dumps({"fr": {"classes": ["z/cat", "z/polar bear"]}})
    found = records_of(read("folders", tmp_path, files, names_path=tmp_path / "elsewhere/fr.json"), tmp_path)
    assert list(found) == ["en", "de", "fr"]
    assert found["en"]["protocol"]["names"] == "given"
    assert found["fr"]["metrics"]["acc1"] >= 2 / 3


def test_wordnet_ids_get_openais_names_and_templates(tmp_path):
    pytest.importorskip("open_clip")
    files = {"n01440764/1.jpg": "a", "n15075141/1.jpg": "b", "n02391049/1.jpg": "c"}
    task = read("folders", tmp_path, files).tasks("en")[0]
    assert task.class_names == [["tench"], ["zebra"], ["toilet paper"]]
    assert len(task.templates) == 80
    with pytest.raises(UserError, match="n00000001 is no class of ImageNet-1k"):
        read("folders", tmp_path, {"n00000001/1.jpg": "a"})


def test_folders_0_to_999_are_imagenet_v2s_classes(tmp_path):
    pytest.importorskip("open_clip")
    task = read("folders", tmp_path, {f"{number}/1.jpg": "a" for number in range(1000)}).tasks("en")[0]
    names = [name for (name,) in task.class_names]
    assert names[:2] == ["tench", "goldfish"]  # folders sort as text: 0, 1, 10, ...
    assert names[sorted(map(str, range(1000))).index("340")] == "zebra"


BABEL = {
    "babel_imagenet.json": json.dumps(
        {
            "EN": [[0, 1, 5], ["cat", "dog", "owl"]],
            "ZH_YUE": [[0, 5], ["x/cat", "x/owl"]],
            "DE": [[0, 1], ["y/dog", "y/dog"]],
            "SW": [[7], ["bee"]],
        }
    ),
    "nllb_dist13b_prompts.json": json.dumps({"EN": ["a/{}", "my/{}"]}),
    "images/0.tar": {
        "n1.jpg": b"cat", "n1.cls": b"0", "n2.jpg": b"owl", "n2.json": b'{"class_index": 5}',
        "n3.jpg": b"dog", "n3.cls": b"1",
    },
}  # fmt: skip


def test_image_takes_part_where_its_class_has_a_label(tmp_path):
    found = records_of(read("babel_imagenet", tmp_path, BABEL), tmp_path)
    assert {lang: (r["n"], r["num_classes"], r["metrics"]["acc1"]) for lang, r in found.items()} == {
        "en": (3, 3, 1.0),
        "zh_yue": (2, 2, 1.0),
        "de": (2, 1, 1.0),  # equal labels are one class
    }  # no image of a class that sw names
    assert found["en"]["protocol"]["prompts"] == "none"


def test_equal_labels_stay_apart_under_the_papers_ties_and_the_first_is_taken(tmp_path):
    folder = write_files(tmp_path / "babel", BABEL)
    config = EvaluateConfig(datasets=("babel",), folders={"babel": f"babel_imagenet:{folder}"}, protocol="paper")
    found = records_of(datasets.load("babel", config, tmp_path), tmp_path)
    assert {lang: (r["num_classes"], r["metrics"]["acc1"]) for lang, r in found.items()} == {
        "en": (3, 1.0),
        "zh_yue": (2, 1.0),
        "de": (2, 0.5),  # a cat is called a dog: class 0 is the first of both
    }
    assert (found["de"]["protocol"]["ties"], found["de"]["protocol"]["equal_labels"]) == ("first", "apart")
    ours = dataclasses.replace(config, protocol="auto")
    found = records_of(datasets.load("babel", ours, tmp_path), tmp_path)
    assert (found["de"]["protocol"]["ties"], found["de"]["metrics"]["acc1"]) == ("against", 1.0)


def test_only_languages_with_prompts_take_part(tmp_path):
    found = records_of(read("babel_imagenet", tmp_path, BABEL, prompts="nllb"), tmp_path)
    assert list(found) == ["en"]
    assert (found["en"]["protocol"]["prompts"], found["en"]["protocol"]["templates"]) == ("nllb", 2)


def test_english_prompts_are_openais_80(tmp_path):
    pytest.importorskip("open_clip")
    task = read("babel_imagenet", tmp_path, BABEL, prompts="english").tasks("zh_yue")[0]
    assert len(task.templates) == 80
    assert "a bad photo of a {}." in task.templates


def test_published_files_give_298_languages_over_300_images(shared):
    tars = sorted((shared / "data/imagenet_samples").glob("*.tar"))
    dataset = babel_imagenet.load("babel", shared / "data/babel_imagenet", tars=tars)
    assert len(dataset.image_keys) == 300
    assert 280 < len(dataset.languages) <= 298
    task = dataset.tasks("de")[0]
    assert len(dataset.tasks("en")[0].image_idx) == 300
    assert 0 < len(task.image_idx) < 300
    assert np.all(task.target < len(task.class_names))
    assert dataset.read_images(0, 2)[0][:2] == b"\xff\xd8"


DOLLAR_STREET = {
    "images_v2_imagenet_test.csv": (
        "id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id\n"
        'a,Kenya,af,40.5,assets/a/1.jpg,"[340, 339]"\nb,Peru,am,900,assets/b/1.jpg,[0]\n'
        "c,Peru,am,901,assets/c/1.jpg,[1]\nd,China,as,12000,assets/d/1.jpg,[999]\n"
    ),
    "assets/a/1.jpg": "sorrel horse", "assets/b/1.jpg": "tench", "assets/c/1.jpg": "tench", "assets/d/1.jpg": "hat",
}  # fmt: skip


def test_dollar_street_uses_imagenet_classes_and_accepts_any_of_several(tmp_path):
    pytest.importorskip("open_clip")
    dataset = read("dollar_street", tmp_path, DOLLAR_STREET)
    task = dataset.tasks("en")[0]
    assert (len(task.class_names), len(task.templates)) == (1000, 80)
    assert [of_pairs.tolist() for of_pairs in task.also_right] == [[0], [339]]
    assert {name: int(mask.sum()) for name, mask in task.slices.items()} == {
        "region af": 1, "region am": 2, "region as": 1, "income 1": 1, "income 2": 1, "income 3": 1, "income 4": 1,
    }  # fmt: skip
    assert task.slices["income 1"].tolist() == [True, False, False, False]
    assert dataset.labels["country"] == ["Kenya", "Peru", "Peru", "China"]


def test_geode_classifies_objects_and_reports_regions(tmp_path):
    rows = "0/1.jpg,light_switch,Africa,Nigeria\n0/2.jpg,stove,Europe,Italy\n"
    files = {
        "index.csv": f"file_path,object,region,ip_country\n{rows}",
        "languages.json": '{"sw": {"classes": ["swichi", "jiko"]}}',
        "images/0/1.jpg": "a photo of a light switch.",
        "images/0/2.jpg": "a photo of a hat.",
    }
    dataset = read("geode", tmp_path, files)
    found = records_of(dataset, tmp_path)
    assert list(found) == ["en", "sw"]
    assert found["en"]["slices"]["region Africa"]["metrics"]["acc1"] == 1.0
    assert dataset.labels == {"country": ["Nigeria", "Italy"], "region": ["Africa", "Europe"]}


def test_landmarks_have_names_of_categories_and_images_without_one_are_left_out(tmp_path):
    wiki = "http://commons.wikimedia.org/wiki/Category"
    files = {
        "recognition_solution_v2.1.csv": "id,landmarks,Usage\nabc1,7 12,Public\nabd2,,Public\nbcd3,12,Private\n",
        "train_label_to_category.csv": (
            f"landmark_id,category\n7,{wiki}:Eiffel_Tower\n12,{wiki}:Machu_Picchu_%28ruins%29\n"
        ),
        "test/a/b/c/abc1.jpg": "a photo of Machu Picchu (ruins).",
        "test/b/c/d/bcd3.jpg": "a photo of b.",
        "languages.json": '{"fr": {"classes": ["Tour Eiffel", "Machu Picchu"], "templates": ["{}"]}}',
    }
    dataset = read("landmarks", tmp_path, files)
    assert (dataset.image_keys, dataset.languages) == (["abc1", "bcd3"], ("en", "fr"))
    assert dataset.tasks("en")[0].class_names == [["Eiffel Tower"], ["Machu Picchu (ruins)"]]
    assert dataset.tasks("fr")[0].class_names == [["Tour Eiffel"], ["Machu Picchu"]]
    record = records_of(dataset, tmp_path)["en"]
    assert record["n"] == 2
    assert record["metrics"]["acc1"] >= 0.5  # the first image shows its second landmark
