"""pool.where: which rows of a table are pairs, by pyarrow's filters, the same in every format."""

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
CASES: list[tuple[tuple[tuple[Any, ...], ...], str]] = [
    ((), "abcde"),
    ((("status", "=", "success"),), "ac"),
    ((("status", "in", ("success", "failed")),), "abc"),
    ((("width", ">=", 300), ("width", "<", 400)), "ad"),
    ((("score", ">", 0),), "abe"),
    ((("status", "=", "success"), ("width", ">", 200)), "a"),
]


def write_rows(path: Path) -> Path:
    """Write ROWS as a shard of the format that the path says."""
    if path.suffix == ".parquet":
        return write_table(path, {name: [row[name] for row in ROWS] for name in ROWS[0]})
    if path.suffix == ".jsonl":
        return write_lines(path, ROWS)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(("where", "expected"), CASES)
def test_conditions_choose_the_same_rows_in_every_format(tmp_path: Path, kind: str, where, expected: str) -> None:
    shard = shard_of(write_rows(tmp_path / f"0.{kind}"))
    config = PoolConfig(path=str(tmp_path), key="uid", texts=("text",), where=where)
    if kind == "csv" and any(name in ("width", "score") for name, *_ in where):
        with pytest.raises(Exception, match="CSV and TSV hold only texts"):
            pool.read_texts(shard, config)
        return
    assert "".join(pool.read_texts(shard, config).key.to_pylist()) == expected
    assert "".join(pool.read_keys(shard, config)[0].to_pylist()) == expected
    assert "".join(pool.read_records(shard, config, ["text"])[0]) == expected
    counts = pool.index_of(shard, config)[1]
    assert (counts["pairs"], counts["left_out"]) == (len(expected), len(ROWS) - len(expected))


def test_bad_lines_are_bad_pairs_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text('{"uid": "a", "text": "x", "w": 1}\nbroken\n{"uid": "b", "text": "y"}\n')
    config = PoolConfig(path=str(tmp_path), key="uid", texts=("text",), where=(("w", "=", 1),))
    assert pool.read_texts(shard_of(tmp_path / "0.jsonl"), config).key.to_pylist() == ["a", "0.jsonl#1"]


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


def test_failed_downloads_of_img2dataset_are_no_pairs(tmp_path: Path, capsys) -> None:
    folder = write_img2dataset(tmp_path / "pool")
    run_pool(tmp_path / "run", path=str(folder), key="key", texts=["caption"])
    report = read_json(tmp_path / "run/pool/report.json")
    assert (report["samples"], report["left_out"], report["images"]) == (2, 2, 2)
    assert "2 left out by pool.where" in capsys.readouterr().err
    everything = PoolConfig(path=str(folder), key="key", texts=("caption",), where=())
    unset = PoolConfig(path=str(folder), key="key", texts=("caption",))
    assert everything.identity != unset.identity
    assert everything.identity_of_texts != unset.identity_of_texts
    assert len(pool.read_texts(shard_of(folder / "00000.parquet"), everything).key) == 4


def test_conditions_that_fit_no_pool_are_mistakes_of_the_recipe(tmp_path: Path) -> None:
    folder = write_img2dataset(tmp_path / "pool")
    settings: dict[str, Any] = {"path": str(folder), "key": "key", "texts": ["caption"]}
    with pytest.raises(UserError, match="did you mean 'status'"):
        run_pool(tmp_path / "run", **settings, where=[["statsu", "=", "success"]])
    config = PoolConfig(path=str(folder), key="key", texts=("caption",), where=(("jpg", "=", True),))
    with pytest.raises(Exception, match=r"pool\.where: .*compare numbers with numbers"):
        pool.read_texts(shard_of(folder / "00000.parquet"), config)
    with pytest.raises(UserError, match="all 4 rows are left out"):
        run_pool(tmp_path / "run", **settings, where=[["status", "=", "x"]])
    for condition in (["status", "==", "x"], ["status", "success"], ["status", "=", ["success"]]):
        with pytest.raises(UserError, match=r"pool\.where: "):
            run_pool(tmp_path / "run", **settings, where=[condition])
    write_tar(tmp_path / "tars/0.tar", sample("0", "text", {"w": 1}))
    with pytest.raises(UserError, match="only tables have rows"):
        run_pool(tmp_path / "run", path=str(tmp_path / "tars"), where=[["w", "=", 1]])
