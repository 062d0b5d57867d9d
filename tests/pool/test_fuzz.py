"""Fuzzing: a damaged file of any format is a BadShard or gives counts that add up; no other error, no hang."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tars import as_json, sample, shard_of, write_tar
from worldclip import pool
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.plugins.crawl.wat import REASONS, extract_file
from worldclip.pool.config import PoolConfig
from worldclip.pool.records import parse_record

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TABLE = PoolConfig(path="pool", key="uid", texts=("text", "texts"))
TAR = PoolConfig(path="pool", key="json:uid", texts=("txt", "json:texts"))


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw `content` with bytes changed, removed, inserted, or cut off."""
    damaged = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(damaged) - 1)))
        match draw(st.sampled_from(["change", "change", "take", "put", "cut"])):
            case "change" if damaged:
                damaged[at] = draw(st.integers(0, 255))
            case "take":
                del damaged[at : at + draw(st.integers(1, 600))]
            case "put":
                damaged[at:at] = draw(st.binary(max_size=30))
            case "cut":
                del damaged[at:]
    return bytes(damaged)


def check(shard: Shard, config: PoolConfig) -> None:
    """Assert what holds for every shard that can be read at all."""
    try:
        texts = pool.read_texts(shard, config)
        keys, num_without, num_repeated = pool.read_keys(shard, config)
    except BadShard:
        return
    rows = len(texts.key)
    assert rows == len(texts.text_idx) == len(texts.text) == len(texts.reason)
    assert [text is None for text in texts.text.to_pylist()] == [code != Reason.KEPT for code in texts.reason]
    starts = [i == 0 for i in texts.text_idx.to_pylist()]
    assert sum(starts) == len(keys) + num_without + num_repeated
    texts.text.validate(full=True)
    texts.key.validate(full=True)
    assert len(set(keys.to_pylist())) == len(keys)


TAR_MEMBERS = [*sample("0", "a red apple", {"uid": "u", "texts": ["x", None]}), *sample("sub/1", "ü", {"uid": 7})]


@FUZZ
@given(st.data())
def test_damaged_tar_is_bad_shard_or_consistent(tmp_path: Path, data) -> None:
    whole = write_tar(tmp_path / "whole.tar", TAR_MEMBERS).read_bytes()
    (tmp_path / "0.tar").write_bytes(data.draw(damage(whole)))
    check(shard_of(tmp_path / "0.tar"), TAR)
    check(shard_of(tmp_path / "0.tar"), PoolConfig(path="pool"))


LINES = b"\n".join(as_json({"uid": f"k{n}", "text": "ü\0x", "texts": ["a", None, "\ud83d\ude00"]}) for n in range(4))


@FUZZ
@given(st.data(), st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_damaged_jsonl_is_bad_shard_or_consistent(tmp_path: Path, data, suffix: str) -> None:
    whole = LINES if suffix == ".jsonl" else gzip.compress(LINES[:50]) + gzip.compress(LINES[50:])
    (tmp_path / f"0{suffix}").write_bytes(data.draw(damage(whole)))
    check(shard_of(tmp_path / f"0{suffix}"), TABLE)


@pytest.mark.parametrize("step", [37])
def test_truncated_parquet_is_bad_shard(tmp_path: Path, step: int) -> None:
    table = pa.table({"uid": ["a", None, "b"], "text": ["x", "y", None], "texts": [["p"], [], ["q", None]]})
    pq.write_table(table, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for end in range(0, len(whole) - 1, step):
        (tmp_path / "0.parquet").write_bytes(whole[:end])
        with pytest.raises(BadShard):
            pool.read_texts(shard_of(tmp_path / "0.parquet"), TABLE)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["\ud800", "\0", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=8,
)


@FUZZ
@given(st.lists(st.fixed_dictionaries({}, optional={"uid": JSON, "text": JSON, "texts": JSON}) | JSON, max_size=5))
def test_any_json_in_any_field_is_read_or_counted(tmp_path: Path, records) -> None:
    lines = "\n".join(json.dumps(record) for record in records)
    (tmp_path / "0.jsonl").write_text(lines, encoding="utf-8")
    check(shard_of(tmp_path / "0.jsonl"), TABLE)
    members = [(f"{n}.json", json.dumps(record).encode()) for n, record in enumerate(records)]
    check(shard_of(write_tar(tmp_path / "0.tar", members)), TAR)


@FUZZ
@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,\\u0d8 1e+-.tfn'), max_size=40).map(str.encode))
def test_any_bytes_are_a_record_or_a_reason(content: bytes) -> None:
    assert isinstance(parse_record(content), dict | str)


@FUZZ
@given(st.data(), st.booleans())
def test_damaged_wat_file_is_bad_shard_or_consistent(tmp_path: Path, data, is_packed: bool) -> None:
    records = []
    for n in range(3):
        link = {"path": "IMG@/src", "url": f"{n}.jpg", "alt": f"text {n}"}
        page = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": [link]}}}}}
        body = as_json(page)
        head = f"WARC/1.0\r\nWARC-Target-URI: http://e/\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        records.append(head + body + b"\r\n\r\n")
    whole = b"".join(map(gzip.compress, records)) if is_packed else b"".join(records)
    (tmp_path / "0.wat").write_bytes(data.draw(damage(whole)))
    try:
        report = extract_file(tmp_path / "out", Shard(name="0.wat", path=str(tmp_path / "0.wat")))
    except BadShard:
        return
    assert report["links"] == sum(report[name] for name in REASONS)
    assert pq.read_table(tmp_path / "out/parts/0.wat.links").num_rows == report["rows"]
