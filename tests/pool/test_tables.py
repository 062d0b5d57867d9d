"""Texts of Parquet, JSONL, CSV and TSV shards, the columns that a recipe names, and pool.where."""

import csv
import dataclasses
import gzip
import itertools
import os
import random
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from miniature import write_files
from pools import Row, images_of, read_rows, rows_of, run_pool, texts_of, write_lines, write_table
from tars import sample, shard_of, write_tar
from worldclip import pool
from worldclip.core.artifacts import read_json
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import table
from worldclip.pool.pairs import refuse_wrong_columns

# columns, keys of [pool], the texts of the table
TEXTS_OF_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], list[Row]]] = {
    "a column of nulls": ({"uid": ["a"], "text": pa.nulls(1)}, {"key": "uid"}, [("a", 0, None, "no_text")]),
    "no rows": ({"uid": pa.array([], pa.string()), "text": pa.array([], pa.list_(pa.string()))}, {"key": "uid"}, []),
    "texts that are not UTF-8": (
        {"uid": list("abcd"), "text": pa.array([b"fine", b"\xff", b"\xed\xa0\xbd", "é".encode()], pa.binary())},
        {"key": "uid"},
        [("a", 0, "fine", "kept"), ("b", 0, None, "bad_pair"), ("c", 0, None, "bad_pair"), ("d", 0, "é", "kept")],
    ),
    "a dictionary of strings": (
        {"uid": list("abc"), "text": pa.array(["red", None, "red"]).cast(pa.dictionary(pa.int32(), pa.string()))},
        {"key": "uid"},
        [("a", 0, "red", "kept"), ("b", 0, None, "no_text"), ("c", 0, "red", "kept")],
    ),
}


def kept(*keys: str) -> list[Row]:
    return [(key, 0, "red", "kept") for key in keys]


WIDTHS = {"uid": ["a", "b", "c"], "text": ["red"] * 3, "width": [1, 2, 3]}
TEXTS_OF_COLUMNS |= {
    f"whole numbers {comparison} a list with fractions": (
        WIDTHS,
        {"key": "uid", "where": (("width", comparison, (1.5, 2)),)},
        kept(*keys),
    )
    for comparison, keys in {"in": "b", "not in": "ac"}.items()
}


@pytest.mark.parametrize("case", TEXTS_OF_COLUMNS)
def test_texts_of_a_table(case: str, tmp_path: Path) -> None:
    columns, settings, expected = TEXTS_OF_COLUMNS[case]
    assert read_rows(write_table(tmp_path / "0.parquet", columns, 1), **settings) == expected


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a shard of the format that the path says."""
    if path.suffix == ".parquet":
        return write_table(path, {name: [row[name] for row in rows] for name in rows[0]})
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv"])
@pytest.mark.parametrize("key", ["filepath", "row"])
def test_a_picture_that_cannot_be_used_is_a_bad_pair_by_name(tmp_path: Path, kind: str, key: str) -> None:
    write_files(tmp_path, {"img/a.png": "a", "b.JPG": "bb", "secret": "x", "empty.png": "", "folder.png/x": ""})
    os.mkfifo(tmp_path / "pipe.png")
    os.truncate(tmp_path / "empty.png", 0)
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", 2**30 + 1)
    reasons = {
        "gone.png": "No such file",
        "secret": "ends in none of .jpg",
        "pipe.png": "FIFO",
        "folder.png": "folder",
        "empty.png": "has 0 bytes",
        "large.png": "the limits are",
        "x" * 300 + ".png": "name too long",
        "nul\0.png": "null",
    }
    names = ["img/a.png", *reasons, str(tmp_path / "b.JPG"), "img/../img/a.png"]
    path = write_rows(tmp_path / f"0.{kind}", [{"filepath": name, "title": f"text {name[:9]}"} for name in names])
    config = PoolConfig(path="pool", key=key, texts=("title",), image_field="filepath")
    texts = texts_of(shard_of(path), config)
    assert [row[3] for row in rows_of(texts)] == ["kept", *["bad_pair"] * len(reasons), "kept", "kept"]
    for (name, reason), told in zip(reasons.items(), texts.details.values(), strict=True):
        assert re.search(f"picture {re.escape(repr(name))}: .*{reason}", told), told
    index, images = images_of(shard_of(path), config)
    assert list(images) == [b"a", b"bb", b"a"]
    assert index["member"].to_pylist() == [names[0], names[-2], names[-1]]
    places = pool.image_places(shard_of(path), index)
    assert list(pool.read_members(places)) == [b"a", b"bb", b"a"]
    (tmp_path / "img/a.png").write_text("longer")
    assert list(map(type, pool.read_members(places))) == [BadShard, bytes, BadShard]


def test_paths_of_pictures_in_a_table_at_a_url_are_refused(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/paths/0.csv", b"filepath,title\n/etc/x.png,x\n")
    with pytest.raises(UserError, match="'filepath' holds paths; copy the table and its images here"):
        run_pool(tmp_path, path="memory://paths", key="filepath", texts=["title"], image_field="filepath")


# --- CSV and TSV ------------------------------------------------------------------------------------------------------


URLS = PoolConfig(path="pool", key="url", texts=("caption",))
BARE = PoolConfig(path="pool", key="url", texts=("caption",), columns=("url", "caption"))


def read(path: Path, content: bytes, config: PoolConfig = URLS) -> list[tuple[str, str | None, str]]:
    """Return key, text and reason of each row, which is one pair."""
    path.write_bytes(content)
    settled = pool.read_shard(shard_of(path), config)
    rows = rows_of(settled.texts)
    assert settled.counts["samples"] == len(rows)
    return [(key, text, reason) for key, _, text, reason in rows]


SEPARATED = [("u1", 'red, "ripe" apple', "kept"), ("u2", "a cat, a dog", "kept")]
# name of the file, contents, columns of the recipe, the pairs
FILES_OF_ROWS: dict[str, tuple[str, str, PoolConfig, list[tuple[str, str | None, str]]]] = {
    "quotes in a TSV are characters": ("0.tsv", 'u1\t"تفاحة\n', BARE, [("u1", '"تفاحة', "kept")]),
    "a header, quotes, line ends in fields": (
        "0.csv",
        '\ufeffcaption,url\r\n"a ""red"", apple\nand more",u1\r\n,u2\r\nplain,u1\r\n',
        URLS,
        [("u1", 'a "red", apple\nand more', "kept"), ("u2", None, "no_text"), ("u1", None, "duplicate")],
    ),
    "a header that pool.columns repeats": ("0.tsv", "url\tcaption\nu\tone\n", BARE, [("u", "one", "kept")]),
    "columns of the recipe": ("0.csv", "u;one\n", BARE, [("u", "one", "kept")]),
} | {
    f"separated by {separator!r}": (
        "0.csv",
        'url#caption\nu1#"red, ""ripe"" apple"\nu2#a cat, a dog'.replace("#", separator),
        URLS,
        SEPARATED,
    )
    for separator in "\t;|"
}


@pytest.mark.parametrize("case", FILES_OF_ROWS)
def test_headers_quotes_and_separators(case: str, tmp_path: Path) -> None:
    name, content, config, expected = FILES_OF_ROWS[case]
    assert read(tmp_path / name, content.encode(), config) == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content[:9].encode()) + gzip.compress(content[9:].encode()))
    packed = rows_of(texts_of(shard_of(tmp_path / f"{name}.gz"), config))
    assert [(key, text, reason) for key, _, text, reason in packed] == expected


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", b","), ("tsv", b"\t")])
def test_bad_rows_are_bad_pairs_that_say_why(tmp_path: Path, suffix: str, delimiter: bytes) -> None:
    lines = [b"url|caption", b"u1|one", b"u2|two|more", b"u3", b"|four", b"u5|\xff", b"u6|six"]
    content = b"\n".join(lines).replace(b"|", delimiter)
    assert read(tmp_path / f"0.{suffix}", content) == [
        ("u1", "one", "kept"),
        (f"0.{suffix}#1", None, "bad_pair"),
        (f"0.{suffix}#2", None, "bad_pair"),
        (f"0.{suffix}#3", None, "bad_pair"),
        ("u5", None, "bad_pair"),
        ("u6", "six", "kept"),
    ]
    reasons = [bad["reason"] for bad in texts_of(shard_of(tmp_path / f"0.{suffix}"), URLS).bad]
    assert sorted(reasons) == [
        "its text is not UTF-8",
        "no key: url is empty",
        "row 1 has 3 fields, not 2",
        "row 2 has 1 fields, not 2",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("0.tsv", b"http://a/1.jpg\tone\t1\n", r"name the 3 columns in pool\.columns"),
        ("0.csv", b"", "is empty"),
        ("0.csv", b"url,cap\rtion\nu1,one\n", "no column or field 'caption'"),  # no error of the module csv
        ("0.tsv.gz", gzip.compress(b"url\tcaption\nu1\tone\n", mtime=0)[:-9], "ends in the middle"),
    ],
)
def test_bad_file_is_a_bad_shard_that_says_why(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    with pytest.raises(BadShard, match=problem):
        read(tmp_path / name, content)


PIECES = [b'"', b",", b"\n", b"\r\n", b"\r", b'""', b"a", b"007", b" ", b"\xff", b"\0", b"\t", b'x"y', b"NULL"]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_arrow_reads_what_python_reads(tmp_path: Path, suffix: str, monkeypatch) -> None:
    rng = random.Random(1)
    separator = b"," if suffix == "csv" else b"\t"
    contents = [b"url%bcaption\n" % separator + b"".join(rng.choices(PIECES, k=12)) for _ in range(1000)]

    def read_all() -> list[object]:
        found = []
        for content in contents:
            try:
                found.append(read(tmp_path / f"0.{suffix}", content))
            except BadShard as error:
                found.append(str(error))
        return found

    def refuse(*_: object) -> None:
        raise pa.ArrowInvalid("left to Python's reader")

    by_arrow = read_all()
    monkeypatch.setattr("pyarrow.csv.read_csv", refuse)
    assert read_all() == by_arrow


# --- columns and fields that no shard has -----------------------------------------------------------------------------


def test_every_shard_with_another_schema_is_named_before_match(tmp_path: Path) -> None:
    other = write_table(tmp_path / "pool" / "0.parquet", {"id": ["a"], "caption": ["b"]})
    write_table(tmp_path / "pool" / "1.parquet", {"uid": ["a"], "text": ["b"]})
    write_table(tmp_path / "pool" / "2.parquet", {"uid": ["c"], "text": [7]})
    write_table(tmp_path / "pool" / "3.parquet", {"uid": [1.5], "text": ["b"]})
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(tmp_path / "pool"), key="uid", texts=["text"])
    for problem in ("no column or field 'uid'", "no column or field 'text'", "uid is double", "text is int64"):
        assert problem in str(failed.value)
    config = {"path": str(tmp_path / "pool"), "key": "uid", "texts": ["text"], "broken_shards": "skip"}
    assert run_pool(tmp_path / "other", **config)
    assert list(read_json(tmp_path / "other/pool/report.json")["skipped"]) == ["0.parquet", "2.parquet", "3.parquet"]
    with pytest.raises(BadShard, match=r"pool.key: no column or field 'uid'; did you mean 'id'"):
        read_rows(other, key="uid", texts=("text",))
    with pytest.raises(BadShard, match="column text is double"):
        read_rows(write_table(tmp_path / "2.parquet", {"uid": ["a"], "text": [1.5]}), key="uid")


def test_a_null_list_that_has_values_is_one_null_text():
    """As a damaged Parquet file gives it."""
    lists = pa.ListArray.from_arrays(
        pa.array([0, 1, 3], pa.int32()), pa.array(["a", "b", "c"]), mask=pa.array([True, False])
    )
    values = table.values_of_column("texts", pa.chunked_array([lists]))
    assert values.pair.tolist() == [0, 1, 1]
    assert values.value.to_pylist() == [None, b"b", b"c"]


# --- single faults ----------------------------------------------------------------------------------------------------


def test_a_list_of_languages_has_one_per_text(tmp_path: Path) -> None:
    numbers = list(itertools.product(range(4), repeat=2))
    columns = {
        "uid": [f"{texts} {labels}" for texts, labels in numbers],
        "texts": [["red"] * texts for texts, _ in numbers],
        "langs": [["en"] * labels for _, labels in numbers],
    }
    rows = read_rows(write_table(tmp_path / "0.parquet", columns), key="uid", lang="langs")
    bad = {key for key, _, _, reason in rows if reason == "bad_pair"}
    right = {"0 0", "0 1", "1 0", "1 1", "2 2", "3 3"}  # a pair without a text has one null
    assert bad == set(columns["uid"]) - right


def test_texts_of_a_shard_without_the_field_of_languages_have_none(tmp_path: Path) -> None:
    """Another shard has it, so that the recipe is right; language identification is not asked."""
    write_lines(tmp_path / "pool/0.jsonl", [{"uid": "a", "text": "red", "lang": "en"}, {"uid": "b", "text": "red"}])
    write_lines(tmp_path / "pool/1.jsonl", [{"uid": "c", "text": "red"}])
    assert run_pool(tmp_path / "run", path=str(tmp_path / "pool"), key="uid", texts=["text"], lang="lang")
    langs = []
    for name in ("0.jsonl", "1.jsonl"):
        texts = pool.read_pairs(tmp_path / "run", name, pool.EVERY_KEY)
        assert texts.lang is not None
        langs.append(texts.lang.to_pylist())
    assert langs == [["en", None], [None]]


def test_a_shard_whose_lists_of_texts_are_empty_has_the_field(tmp_path: Path) -> None:
    """Only a recipe that names no field is refused, of records that have none."""
    path = write_lines(tmp_path / "0.jsonl", [{"uid": "a", "texts": []}])
    assert run_pool(tmp_path / "run", path=str(path), key="uid")
    path = write_lines(tmp_path / "1.jsonl", [{"uid": "a", "words": []}])
    with pytest.raises(UserError, match=r"pool\.texts is not set"):
        run_pool(tmp_path / "other", path=str(path), key="uid")


def test_lines_after_a_byte_order_mark_have_fields_that_only_the_last_one_has(tmp_path: Path) -> None:
    lines = [{"uid": f"k{number}", "text": "red"} for number in range(150)]
    path = write_lines(tmp_path / "0.jsonl", [{**lines[0], "width": 2}, *lines[1:]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_rows(path, key="uid", where=(("width", "=", 2),)) == kept("k0")
    path = write_lines(tmp_path / "1.jsonl", [*lines, {"uid": "last", "text": "red", "width": 300}])
    assert read_rows(path, key="uid", where=(("width", ">", 1),)) == kept("last")


def test_a_number_is_not_compared_with_the_texts_of_a_csv(tmp_path: Path) -> None:
    write_files(tmp_path, {"0.csv": "uid,text,price,day\na,red,100,2025-01-31\nb,red,9,2026-02-01\n"})
    path = tmp_path / "0.csv"
    for number in (50, 0.5):
        with pytest.raises(BadShard, match=r"pool\.where: price holds texts, not comparable with .*write Parquet"):
            read_rows(path, key="uid", where=(("price", "<", number),))
    with pytest.raises(UserError, match=r"where.*price < '50' compares texts, by their characters: '100' < '50'"):
        run_pool(tmp_path / "run", path=str(path), key="uid", where=[["price", "<", "50"]])
    for condition in (("day", ">=", "2026-01-01"), ("price", "=", "9")):
        assert [key for key, *_ in read_rows(path, key="uid", where=(condition,))] == ["b"]


def test_a_place_that_lacks_a_compared_field_is_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "with/0.tar", sample("0", "red", {"width": 300}))
    write_tar(tmp_path / "without/0.tar", sample("0", "red", {"size": 300}))
    paths = [str(tmp_path / name) for name in ("with", "without")]
    with pytest.raises(UserError, match=r"without: pool\.where: no column or field 'width'; there is: txt, size"):
        run_pool(tmp_path / "run", path=paths, where=[["json:width", "=", 300]])


@pytest.mark.parametrize("content", [b'u1,"one\nu2,two\n' + b"u3,three\n" * 990, b'u1,one\nu2,"two\nu3,"three"\n'])
def test_a_quote_that_is_never_closed_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    line = 2 if content.startswith(b'u1,"') else 3
    with pytest.raises(BadShard, match=f"line {line}: a quote opens a field and is not closed"):
        read(tmp_path / "0.csv", b"url,caption\n" + content)


def test_a_column_of_another_type_in_some_shards_fails_these_and_loses_no_pair(tmp_path: Path) -> None:
    """A key is the same as a number and as a text; a condition on numbers is not asked of texts."""
    for name, uid, width in (("a", "1", 300), ("b", 2, "300"), ("c", "3", 200)):
        write_table(tmp_path / f"pool/{name}.parquet", {"uid": [uid], "text": ["red"], "width": [width]})
    settings = {"path": str(tmp_path / "pool"), "key": "uid", "texts": ["text"]}
    assert run_pool(tmp_path / "run", **settings)
    assert [rows_of(pool.read_pairs(tmp_path / "run", f"{name}.parquet", pool.EVERY_KEY)) for name in "abc"] == [
        [(key, 0, "red", "kept")] for key in "123"
    ]
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "other", **settings, where=[["width", ">=", 256]])
    ((name, reason),) = failed.value.failures.items()
    assert name == "b.parquet"
    assert "width holds texts, not comparable with 256" in reason
    assert "where only some files differ, rewrite the column there" in reason
    assert "goes on without all of their pairs" in failed.value.remedy


def test_records_of_which_none_has_all_places_are_a_pool(tmp_path):
    write_lines(tmp_path / "pool/0.jsonl", [{"uid": "a", "alt": "red"}, {"uid": "b", "alt": "green"}])
    write_lines(tmp_path / "pool/1.jsonl", [{"uid": "c", "caption": "red"}])
    config = PoolConfig(path=str(tmp_path / "pool"), key="uid", texts=("alt", "caption"))
    refuse_wrong_columns(pool.list_shards(config), config)
    with pytest.raises(UserError, match="title"):
        refuse_wrong_columns(pool.list_shards(config), dataclasses.replace(config, texts=("title",)))


def test_the_first_row_of_a_key_says_why_it_is_left_out(tmp_path):
    path = write_lines(tmp_path / "0.jsonl", [{"uid": "a", "text": "red", "n": n, "m": 6 - n} for n in (1, 5)])
    config = PoolConfig(path=str(path), key="uid", texts=("text",), where=(("n", ">", 2), ("m", ">", 2)))
    assert pool.left_out_by(shard_of(path), config, "a") == "n is 1, not > 2"
