"""Dollar Street, GeoDE and Google Landmarks v2 in miniature, and each way in which they can be wrong."""

from __future__ import annotations

import pytest

from miniature import records_of, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import dollar_street, geode, landmarks

DOLLAR_HEAD = "id,country.name,region.id,income,imageRelPath,imagenet_sysnet_id\n"
DOLLAR_ROWS = (
    'a,Kenya,af,40.5,assets/a/1.jpg,"[340, 339]"\nb,Peru,am,900,assets/b/1.jpg,[0]\n'
    "c,Peru,am,901,assets/c/1.jpg,[1]\nd,China,as,12000,assets/d/1.jpg,[999]\n"
)


@pytest.fixture
def dollar(tmp_path):
    words = {"a": "sorrel horse", "b": "tench", "c": "tench", "d": "toilet paper"}
    write_files(tmp_path, {f"assets/{key}/1.jpg": word for key, word in words.items()})
    write_files(tmp_path, {"images_v2_imagenet_test.csv": DOLLAR_HEAD + DOLLAR_ROWS})
    return tmp_path


def test_dollar_street_uses_imagenet_classes_and_accepts_any_of_several(dollar):
    pytest.importorskip("open_clip")
    dataset = dollar_street.load("dollar_street", dollar)
    task = dataset.tasks("en")[0]
    assert (len(task.class_names), len(task.templates)) == (1000, 80)
    assert [array.tolist() for array in task.also_right] == [[0], [339]]
    assert {name: mask.tolist().count(True) for name, mask in task.slices.items()} == {
        "region af": 1, "region am": 2, "region as": 1, "income 1": 1, "income 2": 1, "income 3": 1, "income 4": 1,
    }  # fmt: skip
    assert task.slices["income 1"].tolist() == [True, False, False, False]
    assert dataset.labels["country"] == ["Kenya", "Peru", "Peru", "China"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DOLLAR_HEAD, "has no rows"),
        ("id\n1\n", r"lacks the columns imageRelPath, imagenet_sysnet_id, region\.id, country\.name, income"),
        (DOLLAR_HEAD + "a,Kenya,af,40,assets/a/1.jpg,[1000]\n", "at least one, from 0 to 999"),
        (DOLLAR_HEAD + "a,Kenya,af,40,assets/a/1.jpg,[]\n", "at least one"),
        (DOLLAR_HEAD + "a,Kenya,af,40,assets/a/1.jpg,zebra\n", "it must be a list of class indices"),
        (DOLLAR_HEAD + "a,Kenya,af,40,assets/a/1.jpg,5\n", "imagenet_sysnet_id is '5'"),
        (DOLLAR_HEAD + "a,Kenya,af,rich,assets/a/1.jpg,[1]\n", "income is 'rich'; it must be a number"),
        (
            DOLLAR_HEAD + "a,Kenya,af,40,assets/gone.jpg,[1]\n",
            r"lists 1 images that are missing from .*: assets/gone\.jpg",
        ),
    ],
)
def test_invalid_dollar_street_is_named(dollar, text, message):
    write_files(dollar, {"images_v2_imagenet_test.csv": text})
    with pytest.raises(UserError, match=message):
        dollar_street.load("dollar_street", dollar)


GEODE = "file_path,object,region,ip_country\n0/1.jpg,light_switch,Africa,Nigeria\n0/2.jpg,stove,Europe,Italy\n"


def test_geode_classifies_objects_and_reports_regions(tmp_path):
    write_files(tmp_path, {"images/0/1.jpg": "a photo of a light switch.", "images/0/2.jpg": "a photo of a hat."})
    write_files(tmp_path, {"index.csv": GEODE, "languages.json": '{"sw": {"classes": ["swichi", "jiko"]}}'})
    dataset = geode.load("geode", tmp_path)
    found = records_of(dataset, tmp_path)
    assert list(found) == ["en", "sw"]
    assert found["en"]["slices"]["region Africa"]["metrics"]["acc1"] == 1.0
    assert dataset.labels == {"country": ["Nigeria", "Italy"], "region": ["Africa", "Europe"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_path,object\n1.jpg,stove\n", "lacks the columns region, ip_country"),
        (GEODE + "0/9.jpg,stove,Asia,Nepal\n", r"lists 1 images that are missing from .*images: 0/9\.jpg"),
        ("", r"index\.csv is empty"),
    ],
)
def test_invalid_geode_is_named(tmp_path, text, message):
    write_files(tmp_path, {"images/0/1.jpg": "a", "images/0/2.jpg": "b", "index.csv": text})
    with pytest.raises(UserError, match=message):
        geode.load("geode", tmp_path)


SOLUTION = "id,landmarks,Usage\nabc1,7 12,Public\nabd2,,Public\nbcd3,12,Private\n"
CATEGORIES = (
    "landmark_id,category\n7,http://commons.wikimedia.org/wiki/Category:Eiffel_Tower\n"
    "12,http://commons.wikimedia.org/wiki/Category:Machu_Picchu_%28ruins%29\n"
)


@pytest.fixture
def gldv2(tmp_path):
    write_files(
        tmp_path, {"test/a/b/c/abc1.jpg": "a photo of Machu Picchu (ruins).", "test/b/c/d/bcd3.jpg": "a photo of b."}
    )
    write_files(tmp_path, {"recognition_solution_v2.1.csv": SOLUTION, "train_label_to_category.csv": CATEGORIES})
    return tmp_path


def test_landmarks_have_names_of_categories_and_images_without_one_are_left_out(gldv2):
    dataset = landmarks.load("gldv2", gldv2)
    assert dataset.image_keys == ["abc1", "bcd3"]
    task = dataset.tasks("en")[0]
    assert task.class_names == [["Eiffel Tower"], ["Machu Picchu (ruins)"]]
    record = records_of(dataset, gldv2)["en"]
    assert record["n"] == 2
    assert record["metrics"]["acc1"] >= 0.5  # the first image shows its second landmark


def test_landmarks_may_have_names_in_more_languages(gldv2):
    write_files(gldv2, {"languages.json": '{"fr": {"classes": ["Tour Eiffel", "Machu Picchu"], "templates": ["{}"]}}'})
    dataset = landmarks.load("gldv2", gldv2)
    assert dataset.languages == ("en", "fr")
    assert dataset.tasks("fr")[0].class_names == [["Tour Eiffel"], ["Machu Picchu"]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"recognition_solution_v2.1.csv": "id,landmarks\nabc1,\n"}, "no image with a landmark"),
        ({"recognition_solution_v2.1.csv": "id,landmarks\nabc1,99\n"}, "no name for 1 landmarks: 99"),
        (
            {"recognition_solution_v2.1.csv": "id,landmarks\nxyz9,7\n"},
            r"lists 1 images that are missing from .*: x/y/z/xyz9\.jpg",
        ),
        ({"train_label_to_category.csv": "landmark_id\n7\n"}, "lacks the columns category"),
    ],
)
def test_invalid_landmarks_are_named(gldv2, files, message):
    write_files(gldv2, files)
    with pytest.raises(UserError, match=message):
        landmarks.load("gldv2", gldv2)
