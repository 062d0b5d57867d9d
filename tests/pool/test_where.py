"""Conditions on columns: which rows are pairs, the same in every format."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pools import run_pool, write_lines, write_table
from tars import sample, shard_of, write_tar
from worldclip import pool
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.pool.config import PoolConfig

ROWS: list[dict[str, Any]] = [
    {"uid": "a", "text": "one", "status": "success", "width": 300, "score": 0.5},
    {"uid": "b", "text": "two", "status": "failed", "width": 400, "score": 0.25},
    {"uid": "c", "text": "three", "status": "success", "width": 100, "score": None},
    {"uid": "d", "text": "four", "status": None, "width": 350, "score": -1.5},
    {"uid": "e", "text": "five", "status": "10", "width": None, "score": 1e3},
]
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "abcde"),
    ({"status": "success"}, "ac"),
    ({"status": ("success", "failed")}, "abc"),
    ({"status": {"!=": "success"}}, "be"),
    ({"width": {">=": 300, "<": 400}}, "ad"),
    ({"width": 100}, "c"),
    ({"score": {">": 0}}, "abe"),
    ({"score": {"<=": -1.5}}, "d"),
    ({"status": "success", "width": {">": 200}}, "a"),
    ({"status": {">": 9}}, "e"),
]


def write_rows(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """Write rows as a shard of the format that the path says."""
    if path.suffix == ".parquet":
        return write_table(path, {name: [row[name] for row in rows] for name in rows[0]})
    if path.suffix == ".jsonl":
        return write_lines(path, rows)
    if path.suffix == ".tar":
        return write_tar(path, [member for row in rows for member in sample(row["uid"], None, row)])
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tar"])
@pytest.mark.parametrize(("where", "expected"), CASES)
def test_conditions_choose_the_same_rows_in_every_format(tmp_path: Path, kind: str, where, expected: str) -> None:
    if kind == "csv" and where == {"status": {"!=": "success"}}:
        expected = "bde"  # an empty field is a text
    shard = shard_of(write_rows(tmp_path / f"0.{kind}"))
    prefix = "json:" if kind == "tar" else ""
    config = PoolConfig(
        path=str(tmp_path),
        key=f"{prefix}uid",
        texts=(f"{prefix}text",),
        where={f"{prefix}{name}": condition for name, condition in where.items()},
    )
    assert "".join(pool.read_texts(shard, config).key.to_pylist()) == expected
    assert "".join(pool.read_keys(shard, config)[0].to_pylist()) == expected
    assert "".join(pool.read_records(shard, config, ["text"])[0]) == expected
    counts = pool.index_of(shard, config)[1]
    assert (counts["pairs"], counts["left_out"]) == (len(expected), len(ROWS) - len(expected))
    assert counts["images"] == (len(expected) if kind == "tar" else 0)


def test_bad_lines_are_bad_pairs_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text('{"uid": "a", "text": "x", "w": 1}\nbroken\n{"uid": "b", "text": "y"}\n')
    config = PoolConfig(path=str(tmp_path), key="uid", texts=("text",), where={"w": 1})
    texts = pool.read_texts(shard_of(tmp_path / "0.jsonl"), config)
    assert texts.key.to_pylist() == ["a", "0.jsonl#1"]
    members = [*sample("0", "kept", {"w": 1}), ("1.jpg", b"x"), ("1.json", b"{"), ("1.txt", b"t"), *sample("2", "out")]
    write_tar(tmp_path / "0.tar", members)
    config = PoolConfig(path=str(tmp_path), where={"json:w": 1})
    texts = pool.read_texts(shard_of(tmp_path / "0.tar"), config)
    assert list(zip(texts.key.to_pylist(), texts.text.to_pylist(), strict=True)) == [("0", "kept"), ("1", None)]
    assert pool.index_of(shard_of(tmp_path / "0.tar"), config)[0]["key"].to_pylist() == ["0"]


def write_img2dataset(folder: Path) -> Path:
    """Write a table as img2dataset --output_format parquet does: also the downloads that failed."""
    columns = {
        "url": [f"https://e.org/{number}.jpg" for number in range(4)],
        "caption": [f"text {number}" for number in range(4)],
        "key": [f"{number:09}" for number in range(4)],
        "status": ["success", "failed_to_download", "success", "failed_to_resize"],
        "error_message": [None, "HTTP Error 404", None, "error"],
        "jpg": [b"x", None, b"y", None],
    }
    return write_table(folder / "00000.parquet", columns).parent


def test_failed_downloads_of_img2dataset_are_no_pairs(tmp_path: Path) -> None:
    folder = write_img2dataset(tmp_path / "pool")
    run_pool(tmp_path / "run", path=str(folder), key="key", texts=["caption"])
    report = read_json(tmp_path / "run/pool/report.json")
    assert (report["samples"], report["left_out"], report["images"]) == (2, 2, 2)
    everything = PoolConfig(path=str(folder), key="key", texts=("caption",), where={})
    assert len(pool.read_texts(shard_of(folder / "00000.parquet"), everything).key) == 4


def test_unknown_column_and_wrong_kind_are_mistakes_of_the_recipe(tmp_path: Path) -> None:
    folder = write_img2dataset(tmp_path / "pool")
    for where, problem in (
        ({"statsu": "success"}, r"pool\.where: no column or field 'statsu'; did you mean 'status'\?"),
        ({"jpg": True}, r"pool\.where\.jpg: the column is binary, compared with True"),
    ):
        config = PoolConfig(path=str(folder), key="key", texts=("caption",), where=where)
        with pytest.raises(Exception, match=problem):
            pool.read_texts(shard_of(folder / "00000.parquet"), config)
    with pytest.raises(UserError, match="did you mean 'status'"):
        run_pool(tmp_path / "run", path=str(folder), key="key", texts=["caption"], where={"statsu": "success"})


def test_only_digits_of_ascii_make_a_number_in_every_format(tmp_path: Path) -> None:
    """Which other digits there are depends on the Python version."""
    numbers = {"a": "3", "b": "\u0663", "c": "\U00011f53", "d": "3\n"}
    rows = [{"uid": uid, "text": "x", "w": number} for uid, number in numbers.items()]
    from_tar = PoolConfig(path=str(tmp_path), texts=("json:text",), where={"json:w": {">": 2}})
    from_table = PoolConfig(path=str(tmp_path), key="uid", texts=("text",), where={"w": {">": 2}})
    for kind, config in (("tar", from_tar), ("parquet", from_table)):
        path = write_rows(tmp_path / f"0.{kind}", rows)
        assert pool.read_texts(shard_of(path), config).key.to_pylist() == ["a"]
