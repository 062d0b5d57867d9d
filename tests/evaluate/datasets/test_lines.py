"""XTD-10, XTD-200, Flickr30k-200 and Multi30K in miniature: a caption a line in each language."""

from __future__ import annotations

import pytest

from miniature import records_of, write_files
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import lines

IMAGES = {"images/COCO_1.jpg": "cat", "images/sub/COCO_2.jpg": "dog", "images/COCO_3.jpg": "owl"}
XTD10 = IMAGES | {
    "test_image_names.txt": "COCO_1.jpg\nCOCO_2.jpg\nCOCO_3.jpg\n",
    "test_1kcaptions_en.txt": "cat\ndog\nelk\n",
    "MIC/test_1kcaptions_de.txt": "x/cat\nx/dog\nx/owl\n",
    "STAIR/test_1kcaptions_jp.txt": "y/cat\ny/dog\ny/owl",
}


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, XTD10)
    return tmp_path


def test_xtd10_has_a_caption_per_image_in_each_language(folder):
    found = records_of(lines.load("xtd10", folder), folder)
    assert list(found) == ["de", "en", "ja"]  # its `jp` is our ja
    assert (found["de"]["n"], found["de"]["num_texts"]) == (3, 3)
    assert found["de"]["metrics"]["image_retrieval_recall@1"] == 1.0
    assert found["en"]["metrics"]["image_retrieval_recall@1"] == pytest.approx(2 / 3)


def test_flores_codes_become_ours_unless_two_share_a_language(tmp_path):
    captions = "cat\ndog\nowl\n"
    codes = ("deu_Latn", "zho_Hans", "zho_Hant", "swh_Latn")
    write_files(tmp_path, IMAGES | {"filenames.txt": XTD10["test_image_names.txt"]})
    write_files(tmp_path, {f"captions/{code}.txt": captions for code in codes})
    assert lines.load("flickr30k_200", tmp_path).languages == ("de", "sw", "zho_Hans", "zho_Hant")


def test_multi30k_names_its_files_by_the_split(tmp_path):
    write_files(tmp_path, IMAGES | {"test_2016_flickr.txt": XTD10["test_image_names.txt"]})
    write_files(tmp_path, {f"test_2016_flickr.{lang}": "cat\ndog\nowl\n" for lang in ("en", "cs", "fr")})
    assert lines.load("multi30k", tmp_path).languages == ("cs", "en", "fr")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test_1kcaptions_en.txt": "cat\ndog\n"}, r"has 2 lines, and .*test_image_names\.txt has 3"),
        ({"test_1kcaptions_en.txt": "cat\n\nowl\n"}, r"test_1kcaptions_en\.txt:2 is empty"),
        ({"test_1kcaptions_en.txt": ""}, r"test_1kcaptions_en\.txt is empty"),
        ({"more/test_1kcaptions_en.txt": "a\nb\nc\n"}, "are both captions in en; remove one"),
        ({"test_image_names.txt": "COCO_1.jpg\nCOCO_9.jpg\n"}, "lists 1 images that are missing from .*images: COCO_9"),
        ({"test_image_names.txt": "COCO_1.jpg\nCOCO_1.jpg\n"}, "lists 'COCO_1' twice"),
        ({"filenames.txt": "COCO_1.jpg\n"}, "holds 2 of test_image_names.txt"),
    ],
)
def test_invalid_files_are_named(folder, files, message):
    write_files(folder, files)
    with pytest.raises(UserError, match=message):
        lines.load("xtd10", folder)


def test_missing_captions_or_list_are_an_error_that_names_the_files(tmp_path):
    with pytest.raises(UserError, match=r"holds 0 of test_image_names\.txt"):
        lines.load("xtd10", tmp_path)
    write_files(tmp_path, IMAGES | {"filenames.txt": "COCO_1.jpg\n"})
    with pytest.raises(UserError, match="holds no captions; name them"):
        lines.load("xtd200", tmp_path)
