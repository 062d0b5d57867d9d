"""Layouts of captions in miniature: who is ranked, in which languages, and which captions count."""

from __future__ import annotations

import json

import pytest

from miniature import read, records_of, write_files
from upstream import Polyglot, jsonl, write_miniature
from worldclip.core.errors import UserError

XM3600 = {
    "captions.jsonl": jsonl(
        {"image/key": "k1", "image/locale": "en", "en": {"caption": ["fox", "cat"]}, "fil": {"caption": ["x/cat"]}},
        {"image/key": "k2", "image/locale": "en", "en": {"caption": ["dog", " "]}, "fil": {"caption": ["x/dog"]}},
        {"image/key": "k3", "image/locale": "en", "en": {"caption": ["owl"]}, "th": {"caption": []}},
    ),
    "images/k1.jpg": "cat", "images/k2.png": "dog", "images/k3.jpg": "owl",
}  # fmt: skip


def recalls(record):
    """Return the top-1 recall of image retrieval and of text retrieval."""
    return tuple(record["metrics"][f"{way}_retrieval_recall@1"] for way in ("image", "text"))


def test_any_caption_counts_and_every_caption_is_a_query(tmp_path):
    found = records_of(read("captions", tmp_path, XM3600), tmp_path)
    assert list(found) == ["en", "tl"]  # Filipino by our code; Thai has no caption and is absent
    english = found["en"]
    assert (english["n"], english["num_texts"], english["protocol"]["captions"]) == (3, 4, "all_captions")
    assert recalls(english) == (3 / 4, 1.0)  # fox finds nothing


def test_image_without_a_caption_is_a_candidate_and_no_query(tmp_path):
    record = records_of(read("captions", tmp_path, XM3600), tmp_path)["tl"]
    assert (record["n"], record["num_texts"]) == (3, 2)
    assert record["chance"]["image_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert record["metrics"]["text_retrieval_recall@1"] == 1.0


def test_first_caption_keeps_one_caption_and_is_recorded(tmp_path):
    every = read("captions", tmp_path, XM3600)
    first = read("captions", tmp_path, captions="first_caption")
    record = records_of(first, tmp_path)["en"]
    assert (record["num_texts"], record["protocol"]["captions"], recalls(record)[0]) == (3, "first_caption", 2 / 3)
    assert first.digest != every.digest


def wit(i, text):
    return {"wit_ix": f"wit-test_{i}", "caption_reference_description": text}


def test_only_images_of_a_language_are_ranked_and_an_image_may_have_several_lines(tmp_path):
    danish = jsonl(wit(1, "hund"), wit(1, "a dog"), wit(1, " "))
    estonian = jsonl(wit(0, "cat"), wit(1, "dog"), wit(0, "a cat"))
    files = {"annotations/test_da.jsonl": danish, "annotations/test_et.jsonl": estonian}
    dataset = read("iglue", write_miniature("wit_iglue", tmp_path, files))
    records = records_of(dataset, tmp_path, Polyglot())
    assert {lang: (record["n"], record["num_texts"]) for lang, record in records.items()} == {
        "en": (2, 2), "id": (2, 2), "ja": (2, 2), "da": (1, 2), "et": (2, 3)
    }  # fmt: skip
    assert all(recalls(record)[1] == 1.0 for record in records.values())
    assert records["da"]["protocol"]["images"] == "of the language"


def test_several_codes_of_one_language_are_evaluated_separately(tmp_path):
    line = jsonl({"image_id": "3c8a0", "caption": "cat"})
    files = {f"annotations/{code}/test.jsonl": line for code in ("qub", "quf", "bzi")}
    dataset = read("iglue", write_miniature("bloom", tmp_path, files))
    assert set(dataset.languages) == {"en", "id", "ja", "sw", "qub", "quf", "bzi"}


def image(name, split, *captions):
    return {"filename": name, "split": split, "sentences": [{"raw": caption} for caption in captions]}


IMAGES = [image("1.jpg", "test", "cat", "fox"), image("2.jpg", "train", "bee"), image("3.jpg", "test", "dog")]
KARPATHY = {
    "dataset_flickr30k.json": json.dumps({"images": IMAGES}), "images/val2014/1.jpg": "cat", "images/3.jpg": "dog"
}  # fmt: skip


def test_only_the_test_split_is_used_with_all_captions(tmp_path):
    record = records_of(read("karpathy", tmp_path, KARPATHY), tmp_path)["en"]
    assert (record["n"], record["num_texts"], recalls(record)) == (2, 3, (pytest.approx(2 / 3), 1.0))
    first = records_of(read("karpathy", tmp_path, captions="first_caption"), tmp_path)["en"]
    assert (first["num_texts"], recalls(first)[0]) == (2, 1.0)


def test_dataset_of_the_catalog_takes_its_own_file_of_the_archive(tmp_path):
    write_files(tmp_path, {**KARPATHY, "dataset_coco.json": "{}", "dataset_flickr8k.json": "{}"})
    assert read("karpathy", tmp_path, name="flickr30k").image_keys == ["1", "3"]
    with pytest.raises(UserError, match=r"holds 3 files dataset_\*\.json"):
        read("karpathy", tmp_path)


LIST = "COCO_1.jpg\nCOCO_2.jpg\nCOCO_3.jpg\n"
PICTURES = {"images/COCO_1.jpg": "cat", "images/sub/COCO_2.jpg": "dog", "images/COCO_3.jpg": "owl"}


def test_xtd10_has_a_caption_per_image_in_each_language(tmp_path):
    files = {
        "test_image_names.txt": LIST,
        "test_1kcaptions_en.txt": "cat\ndog\nelk\n",
        "MIC/test_1kcaptions_de.txt": "x/cat\nx/dog\nx/owl\n",
        "STAIR/test_1kcaptions_jp.txt": "y/cat\ny/dog\ny/owl",
    }
    found = records_of(read("lines", tmp_path, {**PICTURES, **files}), tmp_path)
    assert list(found) == ["de", "en", "ja"]  # its `jp` is our ja
    assert (found["de"]["n"], found["de"]["num_texts"]) == (3, 3)
    assert (recalls(found["de"])[0], recalls(found["en"])[0]) == (1.0, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("image_list", "captions", "languages"),
    [
        # Codes of FLORES become ours unless two share a language.
        ("filenames.txt", "captions/{}.txt", ("deu_Latn:de", "zho_Hans:zho_Hans", "zho_Hant:zho_Hant", "swh_Latn:sw")),
        ("test_2016_flickr.txt", "test_2016_flickr.{}", ("cs:cs", "en:en", "fr:fr")),
    ],
)
def test_files_of_captions_are_named_by_language(tmp_path, image_list, captions, languages):
    theirs, ours = zip(*(pair.split(":") for pair in languages), strict=True)
    files = {captions.format(lang): "cat\ndog\nowl\n" for lang in theirs}
    dataset = read("lines", tmp_path, {**PICTURES, image_list: LIST, **files})
    assert dataset.languages == tuple(sorted(ours))


def sidecar(**fields):
    return json.dumps(fields).encode()


def test_texts_of_a_pool_have_the_languages_that_the_pairs_state(tmp_path):
    files = {
        "a/0.tar": {
            "1.jpg": b"cat", "1.json": sidecar(texts=["cat", "x/cat"], lang_truth=["en", "de"]),
            "2.jpg": b"dog", "2.json": sidecar(texts=["dog", " "], lang_truth=["en", "de"]),
        },
        "b/0.tar": {"1.jpg": b"owl", "1.txt": b"owl", "3.jpg": b"bee", "3.json": sidecar(caption="bee")},
    }  # fmt: skip
    dataset = read("pool", tmp_path, files)
    found = records_of(dataset, tmp_path)
    assert {lang: (record["n"], record["num_texts"]) for lang, record in found.items()} == {
        "de": (4, 1), "en": (4, 2), "und": (4, 2),
    }  # fmt: skip
    assert all(recalls(record)[0] == 1.0 for record in found.values())
    assert dataset.image_keys == ["a/0/1", "a/0/2", "b/0/1", "b/0/3"]


def test_each_line_of_a_txt_in_a_webdataset_is_a_caption(tmp_path):
    pairs = {"a.jpg": b"cat", "a.txt": b"cat\nelk\n", "b.jpg": b"dog", "b.txt": b"dog"}
    files = {"dataset_type.txt": "retrieval\n", "test/nshards.txt": "1\n", "test/0.tar": pairs}
    record = records_of(read("webdataset", tmp_path, files), tmp_path)["en"]
    assert (record["n"], record["num_texts"], recalls(record)[1]) == (2, 3, 1.0)
    with pytest.raises(UserError, match=r"evaluate\.class_names\.mine: .* is for retrieval and has no classes"):
        read("webdataset", tmp_path, names_path=tmp_path / "names.json")
