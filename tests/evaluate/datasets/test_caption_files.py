"""IGLUE's and Bloom's captions, and MVL-SIB, in miniature: who is ranked, and each way in which a file can be wrong."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upstream import Polyglot, write_miniature
from worldclip.core.errors import UserError
from worldclip.evaluate import engine
from worldclip.evaluate.datasets import iglue, mvl_sib


def evaluate(dataset, tmp_path):
    records, _, _ = engine.evaluate(Polyglot(), {"model": "m"}, [dataset], [], tmp_path / "results.jsonl")
    return {record["lang"]: record for record in records}


def write_lines(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def wit(i, text):
    return {"wit_ix": f"wit-test_{i}", "caption_reference_description": text}


def test_images_of_a_language_alone_are_ranked_and_an_image_may_have_several_lines(tmp_path):
    folder = write_miniature("wit_iglue", tmp_path)
    write_lines(folder / "annotations/test_da.jsonl", wit(1, "hund"), wit(1, "a dog"), wit(1, " "))
    write_lines(folder / "annotations/test_et.jsonl", wit(0, "cat"), wit(1, "dog"), wit(0, "a cat"))
    records = evaluate(iglue.load("wit_iglue", folder), tmp_path)
    assert {lang: (record["n"], record["num_texts"]) for lang, record in records.items()} == {
        "en": (2, 2), "id": (2, 2), "ja": (2, 2), "da": (1, 2), "et": (2, 3)
    }  # fmt: skip
    assert all(record["metrics"]["text_retrieval_recall@1"] == 1.0 for record in records.values())
    assert records["da"]["protocol"]["images"] == "of the language"


def test_several_codes_of_one_language_are_evaluated_separately(tmp_path):
    folder = write_miniature("bloom", tmp_path)
    for code in ("qub", "quf", "bzi"):
        write_lines(folder / f"annotations/{code}/test.jsonl", {"image_id": "3c8a0", "caption": "cat"})
    assert set(iglue.load("bloom", folder).languages) == {"en", "id", "ja", "sw", "qub", "quf", "bzi"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "1"}, "names no image; it must have one of img_path, image_id, wit_ix"),
        ({"wit_ix": 7, "caption_reference_description": "a"}, "wit_ix must be the name of an image"),
        ({"wit_ix": "wit-test_0", "caption_reference_description": None}, "its caption or captions"),
        ({"wit_ix": "../../secret", "caption_reference_description": "a"}, "images that are missing"),
    ],
)
def test_invalid_line_is_an_error_that_says_what_it_must_be(tmp_path, line, problem):
    folder = write_miniature("wit_iglue", tmp_path)
    write_lines(folder / "annotations/test_en.jsonl", line)
    with pytest.raises(UserError, match=problem):
        iglue.load("wit_iglue", folder)


def test_a_sentence_chooses_among_its_images(tmp_path):
    dataset = mvl_sib.load("mvl_sib", write_miniature("mvl_sib", tmp_path))
    assert dataset.read_images(1, 3) == [b"dog", b"owl"]
    records = evaluate(dataset, tmp_path)
    assert {lang: record["metrics"] for lang, record in records.items()} == {
        "en": {"accuracy": 1.0}, "sw": {"accuracy": 1.0}
    }  # fmt: skip
    assert (records["en"]["task"], records["en"]["chance"], records["en"]["n"]) == (
        "image_choice", {"accuracy": 0.25}, 2
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "rows", "problem"),
    [
        ("qrels", [{"query-id": "query-0", "corpus-id": "image-none"}], "'query-0'.*do not fit together"),
        ("top_ranked", [{"query-id": "query-0", "corpus-ids": ["image-cat_0"]}], "equally many images"),
        ("queries", [{"id": "query-0"}], "lacks the columns text"),
    ],
)
def test_tables_that_do_not_fit_together_are_an_error(tmp_path, file, rows, problem):
    folder = write_miniature("mvl_sib", tmp_path)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"data/eng_Latn/{file}.parquet")
    with pytest.raises(UserError, match=problem):
        mvl_sib.load("mvl_sib", folder)
