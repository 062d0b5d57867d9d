"""Texts of Parquet and JSONL shards."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pools import Row, read_rows, rows_of, run_pool, write_lines, write_table
from tars import sample, shard_of, write_tar
from worldclip import pool
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.pool.config import PoolConfig

# columns, keys of [pool], the texts of the table
TEXTS_OF_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], list[Row]]] = {
    "a key of integers": (
        {"url": ["a", "b"], "hash": [-5, 2**62], "TEXT": ["red", "rot"]},
        {"key": "hash"},
        [("-5", 0, "red", "kept"), (str(2**62), 0, "rot", "kept")],
    ),
    "columns of any name": (
        {"url": ["a"], "TEXT": ["red"]},
        {"key": "url", "texts": ("TEXT", "url")},
        [("a", 0, "red", "kept"), ("a", 1, "a", "kept")],
    ),
    "a column of nulls": ({"uid": ["a"], "text": pa.nulls(1)}, {"key": "uid"}, [("a", 0, None, "no_text")]),
    "no rows": ({"uid": pa.array([], pa.string()), "text": pa.array([], pa.list_(pa.string()))}, {"key": "uid"}, []),
    "texts that are not UTF-8": (
        {"uid": list("abcd"), "text": pa.array([b"fine", b"\xff", b"\xed\xa0\xbd", "é".encode()], pa.binary())},
        {"key": "uid"},
        [("a", 0, "fine", "kept"), ("b", 0, None, "bad_pair"), ("c", 0, None, "bad_pair"), ("d", 0, "é", "kept")],
    ),
} | {
    f"strings of type {kind}": (
        {"uid": pa.array(["a", "b", "c"]).cast(kind), "text": pa.array(["red", None, "red"]).cast(kind)},
        {"key": "uid"},
        [("a", 0, "red", "kept"), ("b", 0, None, "no_text"), ("c", 0, "red", "kept")],
    )
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()))
}


@pytest.mark.parametrize("case", TEXTS_OF_COLUMNS)
def test_texts_of_a_table(case: str, tmp_path: Path) -> None:
    columns, settings, expected = TEXTS_OF_COLUMNS[case]
    assert read_rows(write_table(tmp_path / "0.parquet", columns, 1), **settings) == expected


def test_keys_that_are_null_empty_or_not_utf8_are_bad_pairs(tmp_path: Path) -> None:
    uid = pa.array([b"a", None, b"", b"\xff", b"a"], pa.binary())
    path = write_table(tmp_path / "0.parquet", {"uid": uid, "text": [["1", "2"]] * 5})
    texts = pool.read_texts(shard_of(path), PoolConfig(path="pool", key="uid"))
    assert rows_of(texts) == [
        ("a", 0, "1", "kept"),
        ("a", 1, "2", "kept"),
        ("0.parquet#1", 0, None, "bad_pair"),
        ("0.parquet#2", 0, None, "bad_pair"),
        ("0.parquet#3", 0, None, "bad_pair"),
        ("a", 0, None, "duplicate"),
        ("a", 1, None, "duplicate"),
    ]
    assert sorted(one["reason"] for one in texts.bad) == [
        "no key: uid is empty",
        "no key: uid is not UTF-8",
        "no key: uid is null",
    ]


def test_column_of_wrong_type_is_bad_shard(tmp_path: Path) -> None:
    path = write_table(tmp_path / "0.parquet", {"uid": ["a"], "text": [1.5]})
    with pytest.raises(BadShard, match="column text is double"):
        read_rows(path, key="uid")


def test_damaged_parquet_is_bad_shard(tmp_path: Path) -> None:
    path = write_table(tmp_path / "0.parquet", {"uid": ["a"] * 1000, "text": [str(n) for n in range(1000)]})
    whole = path.read_bytes()
    for content in (*(whole[:end] for end in range(0, len(whole) - 1, 97)), whole[:-20], b"PAR1" + b"?" * 100):
        path.write_bytes(content)
        with pytest.raises(BadShard, match="Parquet"):
            read_rows(path, key="uid")


def test_jsonl_reads_as_parquet_does(tmp_path: Path) -> None:
    path = tmp_path / "0.jsonl"
    lines = ['{"uid": "a", "text": "red"}', "", "not JSON", '{"uid": null, "text": "x"}']
    path.write_text("\n".join([*lines, '{"uid": 7, "text": ["", "b"]}', '{"uid": "a"}']))
    assert read_rows(path, key="uid") == [
        ("a", 0, "red", "kept"),
        ("0.jsonl#1", 0, None, "bad_pair"),
        ("0.jsonl#2", 0, None, "bad_pair"),
        ("7", 0, None, "no_text"),
        ("7", 1, "b", "kept"),
        ("a", 0, None, "duplicate"),
    ]
    packed = tmp_path / "0.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row[2] for row in read_rows(packed, key="json:uid")] == [row[2] for row in read_rows(path, key="uid")]


def test_line_without_a_key_takes_no_other_pairs_key(tmp_path: Path) -> None:
    lines = [{"url": "http://x.org/1"}, {"id": "None", "url": "http://y.org/2"}, {"id": 7, "url": "http://z.org/3"}]
    path = write_lines(tmp_path / "a.jsonl", lines)
    keys, _ = pool.read_records(shard_of(path), PoolConfig(path=str(tmp_path), key="id"), ["url"])
    assert keys == ["a.jsonl#0", "None", "7"]


# The same pairs through either format and plain rules over dicts

TEXTS = st.none() | st.lists(st.sampled_from(["a", " ", "\0", "é", "😀"]), max_size=2).map("".join)
ROWS = st.lists(st.tuples(st.sampled_from([None, "", "k", "l", "m"]), TEXTS, st.none() | st.lists(TEXTS, max_size=3)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, st.integers(1, 4))
def test_parquet_and_jsonl_agree_with_plain_implementation(tmp_path: Path, table, row_group_size) -> None:
    kinds = {"key": pa.string(), "text": pa.string(), "texts": pa.list_(pa.string())}
    columns = {name: pa.array([row[i] for row in table], kinds[name]) for i, name in enumerate(kinds)}
    path = write_table(tmp_path / "0.parquet", columns, row_group_size)
    lines = write_lines(tmp_path / "0.jsonl", [dict(zip(kinds, row, strict=True)) for row in table])
    expected, seen = [], set()
    for name, one, several in table:
        stored = [one, *([None] if several is None else several)] if name else [None]
        for text_idx, stored_text in enumerate(stored):
            empty = not (stored_text or "").replace("\0", "").strip()
            reason = "bad_pair" if not name else "duplicate" if name in seen else "no_text" if empty else "kept"
            expected.append((name, text_idx, stored_text if reason == "kept" else None, reason))
        seen |= {name} - {None, ""}
    for file in (path, lines):
        actual = read_rows(file, key="key", texts=("text", "texts"))
        assert [row[1:] for row in actual] == [row[1:] for row in expected]
        assert all(row[0] == other[0] for row, other in zip(actual, expected, strict=True) if row[3] != "bad_pair")


# As a stage


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({"key": "uuid", "texts": ["TXT"]}, ["pool.key: no column or field 'uuid'; did you mean 'uid'?"]),
        ({"key": "uid", "texts": ["t", "A"]}, [f"pool.texts: no column or field '{name}'" for name in "tA"]),
        ({"texts": ["TXT"]}, ['pool.key = "member" is for tars only; set it to the column of the key: uid, url']),
        ({"key": "uid"}, ["pool.texts is not set and there is no column"]),
    ],
)
def test_columns_that_no_shard_has_are_reported_as_config_problems(tmp_path: Path, settings, problems) -> None:
    columns = {"uid": ["a"], "url": ["b"], "TXT": ["c"]}
    for name in ("0.parquet", "1.parquet"):
        write_table(tmp_path / "pool" / name, columns)
    with pytest.raises(UserError) as error:
        run_pool(tmp_path / "run", path=str(tmp_path / "pool"), **settings)
    assert len(error.value.problems) == len(problems)
    assert all(problem in said for problem, said in zip(problems, error.value.problems, strict=True))


def test_field_that_no_record_has_is_reported_as_config_problem(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", sample("0", None, {"caption": "a", "uid": "k"}))
    with pytest.raises(UserError, match=r"pool.texts: no column or field 'captoin'; did you mean 'caption'"):
        run_pool(tmp_path / "run", path=str(tmp_path / "pool"), texts=["json:captoin", "json:alt"])
    write_lines(tmp_path / "lines" / "0.jsonl", [{"uid": "a", "text": "b"}])
    with pytest.raises(UserError, match=r"pool.key: no column or field 'uuid'; did you mean 'uid'"):
        run_pool(tmp_path / "run", path=str(tmp_path / "lines"), key="uuid")


def test_shard_with_another_schema_fails_alone(tmp_path: Path) -> None:
    other = write_table(tmp_path / "pool" / "0.parquet", {"id": ["a"], "caption": ["b"]})
    write_table(tmp_path / "pool" / "1.parquet", {"uid": ["a"], "text": ["b"]})
    run_pool(tmp_path / "run", path=str(tmp_path / "pool"), key="uid", texts=["text"])
    with pytest.raises(BadShard, match=r"pool.key: no column or field 'uid'; did you mean 'id'"):
        read_rows(other, key="uid", texts=("text",))


def test_damaged_table_fails_alone(tmp_path: Path) -> None:
    write_table(tmp_path / "pool" / "1.parquet", {"uid": ["a"], "text": ["b"]})
    (tmp_path / "pool" / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(StageFailed) as failed:
        run_pool(tmp_path / "run", path=str(tmp_path / "pool"), key="uid")
    assert list(failed.value.failures) == ["0.parquet"]


def test_parquet_next_to_tars_is_ignored_unless_format_is_write_table(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", sample("0", "a"))
    write_table(tmp_path / "pool" / "0.parquet", {"uid": ["a"], "text": ["b"]})
    for form, names in (("auto", ["0.tar"]), ("parquet", ["0.parquet"])):
        shards = pool.list_shards(PoolConfig(path=str(tmp_path / "pool"), format=form))
        assert [shard.name for shard in shards] == names
