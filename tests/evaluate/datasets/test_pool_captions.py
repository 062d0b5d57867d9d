"""Any tar pool with captions: retrieval among its pairs, by language where the pairs say theirs."""

from __future__ import annotations

import json

import pytest

from miniature import records_of, write_tar
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets import pool


def sidecar(**fields):
    return json.dumps(fields).encode()


def test_texts_have_the_languages_that_the_pairs_state(tmp_path):
    write_tar(
        tmp_path / "a/0.tar",
        {
            "1.jpg": b"cat", "1.json": sidecar(texts=["cat", "x/cat"], lang_truth=["en", "de"]),
            "2.jpg": b"dog", "2.json": sidecar(texts=["dog", " "], lang_truth=["en", "de"]),
        },
    )  # fmt: skip
    write_tar(
        tmp_path / "b/0.tar", {"1.jpg": b"owl", "1.txt": b"owl", "3.jpg": b"bee", "3.json": sidecar(caption="bee")}
    )
    found = records_of(pool.load("held_out", tmp_path), tmp_path)
    assert {lang: (record["n"], record["num_texts"]) for lang, record in found.items()} == {
        "de": (4, 1), "en": (4, 2), "und": (4, 2),
    }  # fmt: skip
    assert all(record["metrics"]["image_retrieval_recall@1"] == 1.0 for record in found.values())
    assert pool.load("held_out", tmp_path).image_keys == ["a/0/1", "a/0/2", "b/0/1", "b/0/3"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"README.md": b"cat"}, "hold no image"),
        ({"1.jpg": b"cat", "2.txt": b"cat"}, r"holds 1 labels or captions without an image: 2\.txt"),
        ({"1.jpg": b"cat"}, "its tars hold no caption"),
        ({"1.jpg": b"cat", "1.json": b"["}, r"1\.json is not JSON"),
        ({"1.jpg": b"cat", "1.json": sidecar(texts=["a", "b"], lang_truth=["en"])}, "has 2 texts and 1 of lang_truth"),
        ({"1.jpg": b"cat", "1.txt": b"\xff"}, r"1\.txt is not UTF-8"),
    ],
)
def test_invalid_pairs_are_named(tmp_path, members, message):
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(UserError, match=message):
        pool.load("held_out", tmp_path)


def test_folder_without_tars_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no tars"):
        pool.load("held_out", tmp_path)
