"""SugarCrepe, Winoground and WinoGAViL in miniature, and each way in which they can be wrong."""

from __future__ import annotations

import json

import pytest

from miniature import records_of, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import sugar_crepe, winogavil, winoground


def question(filename, caption, negative):
    return {"filename": filename, "caption": caption, "negative_caption": negative}


FOUND = {"0": question("1.jpg", "cat", "dog")}


def write_questions(folder, **kinds):
    """All seven files; those that are not given hold FOUND."""
    files = {f"{kind}.json": json.dumps(kinds.get(kind, FOUND)) for kind in sugar_crepe.KINDS}
    write_files(folder, {"images/1.jpg": "cat", "images/2.jpg": "dog", **files})


def test_sugar_crepe_chooses_a_caption_and_reports_each_kind(tmp_path):
    add = {"0": question("1.jpg", "cat", "dog"), "7": question("2.jpg", "dog", "owl")}
    write_questions(tmp_path, add_att=add, swap_obj={"0": question("1.jpg", "dog", "cat")})
    record = records_of(sugar_crepe.load("sugar_crepe", tmp_path), tmp_path)["en"]
    assert (record["n"], record["metrics"]) == (8, {"accuracy": pytest.approx(7 / 8)})
    assert record["slices"]["add_att"] == {"n": 2, "metrics": {"accuracy": 1.0}}
    assert record["slices"]["swap_obj"]["metrics"]["accuracy"] == 0.0
    assert record["chance"] == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({}, r"add_att\.json holds no question"),
        ({"0": 7}, "0 is 7; it must be a JSON object with filename, caption, negative_caption"),
        ({"0": {"filename": "1.jpg", "caption": "a"}}, "0 lacks negative_caption"),
        ({"0": question("1.jpg", "a", 5)}, "negative_caption is 5; it must be a text"),
        ({"0": question("9.jpg", "a", "b")}, "lists 1 images that are missing from .*: 9"),
    ],
)
def test_invalid_sugar_crepe_is_named(tmp_path, questions, message):
    write_questions(tmp_path, add_att=questions)
    with pytest.raises(UserError, match=message):
        sugar_crepe.load("sugar_crepe", tmp_path)


def test_missing_kind_of_sugar_crepe_is_named(tmp_path):
    write_questions(tmp_path)
    (tmp_path / "swap_att.json").unlink()
    with pytest.raises(UserError, match=r"lacks swap_att\.json; the average is over the questions of all kinds"):
        sugar_crepe.load("sugar_crepe", tmp_path)


EXAMPLE = {
    "id": 0, "image_0": "ex_0_img_0", "image_1": "ex_0_img_1", "caption_0": "cat", "caption_1": "dog",
    "collapsed_tag": "Object",
}  # fmt: skip


def test_winoground_matches_in_both_directions(tmp_path):
    write_files(tmp_path, {"images/ex_0_img_0.png": "cat", "images/ex_0_img_1.png": "dog"})
    lines = [EXAMPLE, EXAMPLE | {"caption_0": "dog", "caption_1": "cat", "collapsed_tag": "Relation"}]
    write_files(tmp_path, {"examples.jsonl": "".join(f"{json.dumps(line)}\n" for line in lines)})
    record = records_of(winoground.load("winoground", tmp_path), tmp_path)["en"]
    assert (record["n"], record["metrics"]) == (2, {"text_acc": 0.5, "image_acc": 0.5, "acc": 0.5})
    assert record["slices"]["Object"]["metrics"]["acc"] == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", r"examples\.jsonl is empty"),
        ("{", r"examples\.jsonl:1 is not JSON"),
        ("7", "1 is 7; it must be a JSON object with image_0, image_1"),
        ('{"image_0": "a"}', "1 lacks image_1, caption_0, caption_1"),
        (json.dumps(EXAMPLE | {"caption_0": 3}), "1: caption_0 is 3; it must be a text"),
        (json.dumps(EXAMPLE | {"image_1": "gone"}), "lists 1 images that are missing from .*: gone"),
    ],
)
def test_invalid_winoground_is_named(tmp_path, line, message):
    write_files(tmp_path, {"images/ex_0_img_0.png": "cat", "images/ex_0_img_1.png": "dog", "examples.jsonl": line})
    with pytest.raises(UserError, match=message):
        winoground.load("winoground", tmp_path)


HEAD = "cue,candidates,associations\n"


def test_winogavil_chooses_as_many_images_as_are_right(tmp_path):
    write_files(tmp_path, {f"images/{name}.jpg": f"A {name}" for name in ("cat", "dog", "bee")})
    rows = "Cat,\"['cat', 'dog', 'bee']\",\"['cat']\"\ndog,\"['cat', 'dog']\",\"['cat']\"\n"
    write_files(tmp_path, {"winogavil_dataset.csv": HEAD + rows})
    record = records_of(winogavil.load("winogavil", tmp_path), tmp_path)["en"]
    assert record["metrics"] == {"jaccard": 0.5}  # `A cat` finds its image, `A dog` another than the association
    assert record["slices"] == {"candidates 5-6": {"n": 2, "metrics": {"jaccard": 0.5}}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "has no rows"),
        ("cue,candidates\n", "lacks the columns associations"),
        (HEAD + "cat,cat dog,['cat']\n", "candidates is 'cat dog'; it must be a list of image names"),
        (HEAD + "cat,5,['cat']\n", "candidates is '5'; it must be a list of image names"),
        (HEAD + "cat,['cat'],['dog']\n", r"associations \['dog'\] are not some of the candidates"),
        (HEAD + "cat,['gone'],['gone']\n", "lists 1 images that are missing from .*: gone"),
        (HEAD + "cat\n", "2 has fewer fields than the header"),
    ],
)
def test_invalid_winogavil_is_named(tmp_path, text, message):
    write_files(tmp_path, {"images/cat.jpg": "cat", "winogavil_dataset.csv": text})
    with pytest.raises(UserError, match=message):
        winogavil.load("winogavil", tmp_path)
