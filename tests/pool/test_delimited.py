"""CSV and TSV pools: with and without a header, quotes, rows of another length, packed ones."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

import pytest

from pools import rows_of
from tars import shard_of
from worldclip import pool
from worldclip.core.errors import BadShard
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import delimited

URLS = PoolConfig(path="pool", key="url", texts=("caption",))
BARE = PoolConfig(path="pool", key="url", texts=("caption",), columns=("url", "caption"))


def read(path: Path, content: bytes, config: PoolConfig = URLS) -> list[tuple[str, str | None, str]]:
    """Return key, text and reason of each row, which is one pair."""
    path.write_bytes(content)
    rows = rows_of(pool.read_texts(shard_of(path), config))
    assert pool.index_of(shard_of(path), config)[1]["pairs"] == len(rows)
    return [(key, text, reason) for key, _, text, reason in rows]


def test_tsv_like_cc12m_without_a_header(tmp_path: Path) -> None:
    content = 'http://a/1.jpg\ta "red" apple\nhttp://a/2.jpg\t"unbalanced\nhttp://a/3.jpg\tتفاحة\n'.encode()
    assert read(tmp_path / "cc12m.tsv", content, BARE) == [
        ("http://a/1.jpg", 'a "red" apple', "kept"),
        ("http://a/2.jpg", '"unbalanced', "kept"),
        ("http://a/3.jpg", "تفاحة", "kept"),
    ]


def test_csv_with_a_header_quotes_and_line_ends_in_fields(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbfcaption,url\r\n"a ""red"", apple\nand more",u1\r\n,u2\r\nplain,u1\r\n'
    assert read(tmp_path / "0.csv", content) == [
        ("u1", 'a "red", apple\nand more', "kept"),
        ("u2", None, "no_text"),
        ("u1", None, "duplicate"),
    ]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", b","), ("tsv", b"\t")])
def test_bad_rows_are_bad_pairs_that_say_why(tmp_path: Path, suffix: str, delimiter: bytes) -> None:
    lines = [b"url|caption", b"u1|one", b"u2|two|more", b"u3", b"|four", b"u5|\xff", b"u6|six"]
    content = b"\n".join(lines).replace(b"|", delimiter)
    assert read(tmp_path / f"0.{suffix}", content) == [
        ("u1", "one", "kept"),
        (f"0.{suffix}#1", None, "bad_pair"),
        ("u5", None, "bad_pair"),
        ("u6", "six", "kept"),
        (f"0.{suffix}#4", None, "bad_pair"),
        (f"0.{suffix}#5", None, "bad_pair"),
    ]
    reasons = [bad["reason"] for bad in pool.read_texts(shard_of(tmp_path / f"0.{suffix}"), URLS).bad]
    assert sorted(reasons) == [
        "its text is not UTF-8",
        "no key: url is empty",
        "row 3 has 3 fields, not 2",
        "row 4 has 1 fields, not 2",
    ]


def test_packed_file_reads_like_the_plain_one_and_a_cut_one_fails(tmp_path: Path) -> None:
    content = b"url\tcaption\n" + b"".join(b"u%d\ttext %d\n" % (number, number) for number in range(5000))
    plain = read(tmp_path / "0.tsv", content)
    packed = gzip.compress(content[:30]) + gzip.compress(content[30:])
    assert read(tmp_path / "1.tsv.gz", packed) == plain
    (tmp_path / "1.tsv.gz").write_bytes(packed[:-20])
    with pytest.raises(BadShard, match="ends in the middle"):
        pool.read_texts(shard_of(tmp_path / "1.tsv.gz"), URLS)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("0.tsv", b"http://a/1.jpg\tone\t1\n", r"name the 3 columns in pool\.columns"),
        ("0.csv", b"", "is empty"),
        ("0.csv", b"url,cap\rtion\nu1,one\n", "no column or field 'caption'"),  # no error of the module csv
    ],
)
def test_bad_first_line_is_a_bad_shard_that_says_why(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    with pytest.raises(BadShard, match=problem):
        read(tmp_path / name, content)


def test_header_that_pool_columns_repeats_is_no_pair(tmp_path: Path) -> None:
    assert read(tmp_path / "0.tsv", b"url\tcaption\nu\tone\n", BARE) == [("u", "one", "kept")]


def test_long_field_is_read_and_leaves_the_limit_of_the_module_csv_as_it_was(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "apple " * 50_000
    content = f'url,caption\nu1,"{text}"\nu2,two\n'.encode()
    assert read(tmp_path / "0.csv", content) == [("u1", text, "kept"), ("u2", "two", "kept")]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_the_separator_is_found(tmp_path: Path, delimiter: str) -> None:
    lines = ["url#caption", 'u1#"red, ""ripe"" apple"', "u2#a cat, a dog"]
    content = "\n".join(lines).replace("#", delimiter).encode()
    expected = [("u1", 'red, "ripe" apple', "kept"), ("u2", "a cat, a dog", "kept")]
    assert read(tmp_path / "0.csv", content) == expected
    without_header = content.split(b"\n", 1)[1].replace(b"red, ", b"red ")
    assert read(tmp_path / "1.csv", without_header, BARE)[0] == ("u1", 'red "ripe" apple', "kept")
    assert read(tmp_path / "0.tsv", content)[1] == ("u2", "a cat, a dog", "kept")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_columns_without_a_header_are_known_by_the_url(tmp_path: Path, order: tuple[int, int]) -> None:
    """CC12M has the address first, CC3M the caption."""
    rows = [("http://a/1.jpg", "one"), ("http://a/2.jpg", "two")]
    content = "".join(f"{row[order[0]]}\t{row[order[1]]}\n" for row in rows).encode()
    assert read(tmp_path / "0.tsv", content) == [(*row, "kept") for row in rows]


PIECES = [b'"', b",", b"\n", b"\r\n", b"\r", b'""', b"a", b"007", b" ", b"\xff", b"\0", b"\t", b'x"y', b"NULL"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_arrow_reads_what_python_reads(tmp_path: Path, suffix: str, monkeypatch) -> None:
    rng = random.Random(1)
    separator = b"," if suffix == "csv" else b"\t"
    contents = [b"url%bcaption\n" % separator + b"".join(rng.choices(PIECES, k=12)) for _ in range(2000)]

    def read_all() -> list[object]:
        found = []
        for content in contents:
            try:
                found.append(read(tmp_path / f"0.{suffix}", content))
            except BadShard as error:
                found.append(str(error))
        return found

    by_arrow = read_all()
    monkeypatch.setattr(delimited, "_read_by_arrow", lambda *_, **__: None)
    assert read_all() == by_arrow


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_one_label_per_row_is_that_of_all_its_texts(tmp_path: Path, suffix: str, delimiter: str) -> None:
    """WIT has one language per row and three columns of texts."""
    rows = ["url|language|title|caption", "u1|de|Apfel|ein roter Apfel", "u2||cat|", "u3|sw|simba|simba mkubwa"]
    path = tmp_path / f"0.{suffix}"
    path.write_text("\n".join(rows).replace("|", delimiter), "utf-8")
    config = PoolConfig(path="pool", key="url", texts=("title", "caption"), lang="language")
    texts = pool.read_texts(shard_of(path), config)
    assert texts.lang is not None
    labels = list(zip(texts.key.to_pylist(), texts.lang.to_pylist(), strict=True))
    assert labels == [("u1", "de")] * 2 + [("u2", None)] * 2 + [("u3", "sw")] * 2
