"""Fuzzing in bulk: many damaged inputs of one reader, in a child process under a limit of memory and time.

The child fails for any error but BadShard, for memory above the limit and for a pair that a plain reader does not see.
`python tests/pool/test_fuzz_bulk.py READER FIRST LAST FOLDER` runs the seeds of one reader.
"""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MEMORY_BYTES = 6 << 30  # of address space, of which libraries take half
# Seeds of inputs that once failed.
FOUND: dict[str, list[int]] = {"tsv": [1]}
PIECES = [b"{", b"}", b"[", b'"', b"\\", b"\\ud800", b"\0", b"\xff", b"1e999", b"null", b":", b",", b"\n", b"\t", b"\r"]


def damage(rng: random.Random, content: bytes) -> bytes:
    """Return `content` with a few bytes changed, removed, inserted or repeated."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.random()
        if kind < 0.4 and at < len(damaged):
            damaged[at] = rng.randrange(256)
        elif kind < 0.6:
            del damaged[at : at + rng.choice((1, 3, 40))]
        elif kind < 0.9:
            damaged[at:at] = rng.choice(PIECES)
        else:
            damaged[at:at] = damaged[at : at + rng.randint(1, 60)]
    return bytes(damaged)


def fuzz_parquet(folder: Path, seeds: list[int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from worldclip import pool
    from worldclip.core.errors import BadShard
    from worldclip.core.execute import Shard
    from worldclip.pool.config import PoolConfig

    table = pa.table({"uid": ["a", None, "b"], "text": ["x", "y", None], "texts": [["p"], [], ["q", None]]})
    wholes = []
    for compression in ("none", "zstd"):
        pq.write_table(table, folder / "whole.parquet", compression=compression)
        wholes.append((folder / "whole.parquet").read_bytes())
    config = PoolConfig(path="pool", key="uid", texts=("text", "texts"))
    shard = Shard(name="0.parquet", path=str(folder / "0.parquet"))
    for seed in seeds:
        rng = random.Random(seed)
        (folder / "0.parquet").write_bytes(damage(rng, rng.choice(wholes)))
        try:
            texts = pool.read_texts(shard, config)
            pool.read_keys(shard, config)
            pool.index_of(shard, config)
        except BadShard:
            continue
        assert len(texts.key) == len(texts.text) == len(texts.reason), seed


def fuzz_jsonl(folder: Path, seeds: list[int]) -> None:
    """Read one line per seed, all in one file, beside a plain reader of each line."""
    from worldclip.core.execute import Shard
    from worldclip.pool.config import PoolConfig
    from worldclip.pool.formats.jsonl import JSONL

    lines = []
    for seed in seeds:
        rng = random.Random(seed)
        record = {"uid": f"k{seed}", "text": rng.choice(["x", "ü", "", None, 3, ["a", None], {"a": 1}])}
        lines.append(damage(rng, json.dumps(record).encode()).replace(b"\n", b" "))
    (folder / "0.jsonl").write_bytes(b"\n".join(lines))
    expected: list[str | None] = []
    for line in lines:
        if line.strip():
            try:
                record = json.loads(line.decode("utf-8-sig"))
                uid = record.get("uid") if isinstance(record, dict) else None
            except (ValueError, RecursionError):
                uid = None
            is_text = isinstance(uid, str) and uid != "" and not any("\ud800" <= char <= "\udfff" for char in uid)
            is_number = isinstance(uid, int) and not isinstance(uid, bool)
            expected.append(str(uid) if is_text or is_number else None)
    shard = Shard(name="0.jsonl", path=str(folder / "0.jsonl"))
    config = PoolConfig(path="pool", key="uid", texts=("text",))
    keys = JSONL.read_keys(shard, config)
    pairs = zip(keys.keys.to_pylist(), keys.has_key.tolist(), strict=True)
    assert [key if has_key else None for key, has_key in pairs] == expected
    JSONL.read_texts(shard, config)


def fuzz_tsv(folder: Path, seeds: list[int]) -> None:
    """Read one row per seed, all in one file, beside a plain split of each line."""
    from worldclip.core.execute import Shard
    from worldclip.pool.config import PoolConfig
    from worldclip.pool.formats.delimited import TSV

    lines = []
    for seed in seeds:
        rng = random.Random(seed)
        line = damage(rng, f'k{seed}\ta "text" of {seed}'.encode())
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" "))
    (folder / "0.tsv").write_bytes(b"\n".join(lines) + b"\n")
    rows = [line.split(b"\t") for line in lines if line]
    good = [row for row in rows if len(row) == 2]
    config = PoolConfig(path="pool", key="url", texts=("text",), columns=("url", "text"))
    texts = TSV.read_texts(Shard(name="0.tsv", path=str(folder / "0.tsv")), config)
    assert len(texts.key) == len(rows)
    for row, key, text in zip(good, texts.key.to_pylist(), texts.text.to_pylist(), strict=False):
        if text is not None:
            assert [key.encode(), text.encode()] == row


def fuzz_wat(folder: Path, seeds: list[int]) -> None:
    from collections import Counter

    from worldclip.plugins.crawl.wat import _rows_of_page

    link = {"path": "IMG@/src", "url": "a/0.jpg", "alt": "text", "title": ["t", None]}
    html = {"Links": [link, {**link, "url": "//e.org/ü.jpg"}], "Head": {"Base": "http://b/"}}
    page = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}}
    whole = json.dumps(page).encode()
    for seed in seeds:
        try:
            damaged = json.loads(damage(random.Random(seed), whole))
        except (ValueError, RecursionError):
            continue
        counts: Counter[str] = Counter()
        rows = list(_rows_of_page(damaged, "http://page/", counts))
        reasons = ("no_text", "bad_text", "not_http", "bad_url", "pairs")
        assert counts["links"] == sum(counts[name] for name in reasons), seed
        assert all(url.startswith(("http://", "https://")) for _, url, _ in rows), seed


def fuzz_csv(folder: Path, seeds: list[int]) -> None:
    """Read a file of three rows per seed; quotes may swallow the rows after a damaged one."""
    from worldclip.core.errors import BadShard
    from worldclip.core.execute import Shard
    from worldclip.pool.config import PoolConfig
    from worldclip.pool.formats.delimited import CSV

    shard = Shard(name="0.csv", path=str(folder / "0.csv"))
    config = PoolConfig(path="pool", key="uid", texts=("text",))
    for seed in seeds:
        rng = random.Random(seed)
        (folder / "0.csv").write_bytes(damage(rng, b'uid,text\nk0,"a, ""b"""\nk1,c\r\n"k2","d\ne"\n'))
        try:
            texts = CSV.read_texts(shard, config)
        except BadShard:
            continue
        assert len(texts.key) == len(texts.text) == len(texts.reason), seed


def fuzz_wat_file(folder: Path, seeds: list[int]) -> None:
    import gzip

    from worldclip.core.errors import BadShard
    from worldclip.core.execute import Shard
    from worldclip.plugins.crawl.wat import extract_file

    page = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": []}}}}}
    body = json.dumps(page).encode()
    record = f"WARC/1.0\r\nWARC-Target-URI: http://e/\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    record += b"\r\n\r\n"
    wholes = [record * 3, gzip.compress(record) * 3]
    shard = Shard(name="0.wat", path=str(folder / "0.wat"))
    for seed in seeds:
        rng = random.Random(seed)
        (folder / "0.wat").write_bytes(damage(rng, rng.choice(wholes)))
        try:
            report = extract_file(folder / "out", shard)
        except BadShard:
            continue
        assert report["pairs"] == 0, seed


def fuzz_tar(folder: Path, seeds: list[int]) -> None:
    """Damage tars of three formats, mostly in a header whose checksum is then set right, and read them as a pool."""
    import tarfile

    from worldclip import pool
    from worldclip.core.errors import BadShard
    from worldclip.core.execute import Shard
    from worldclip.pool.config import PoolConfig

    members = [
        ("0.jpg", b"x"),
        ("0.json", b'{"uid": "u"}'),
        ("0.txt", b"a"),
        ("d" * 90 + "/é1.jpg", b"y"),
        ("1.txt", b"b"),
    ]
    wholes = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size, header.mtime = len(content), 1.5 if tar_format == tarfile.PAX_FORMAT else 1
                tar.addfile(header, io.BytesIO(content))
        wholes.append(file.getvalue()[:-7680])
    configs = [PoolConfig(path="pool"), PoolConfig(path="pool", key="json:uid", texts=("txt",))]
    shard = Shard(name="0.tar", path=str(folder / "0.tar"))
    for seed in seeds:
        rng = random.Random(seed)
        content = bytearray(rng.choice(wholes))
        if rng.random() < 0.8:
            start = rng.randrange(len(content) // 512) * 512
            block = bytearray(damage(rng, bytes(content[start : start + 512]))[:512].ljust(512, b"\0"))
            block[148:156] = b" " * 8
            block[148:156] = f"{sum(block):06o}\0 ".encode()
            content[start : start + 512] = block
        else:
            content = bytearray(damage(rng, bytes(content)))
        (folder / "0.tar").write_bytes(content)
        for config in configs:
            try:
                texts = pool.read_texts(shard, config)
                keys, num_without, num_repeated = pool.read_keys(shard, config)
            except BadShard:
                continue
            starts = [i == 0 for i in texts.text_idx.to_pylist()]
            assert sum(starts) == len(keys) + num_without + num_repeated, seed


def fuzz_json(folder: Path, seeds: list[int]) -> None:
    from worldclip.pool.records import parse_record

    whole = json.dumps({"uid": "ü\ud800", "n": [1, -2.5e300, None, True], "texts": {"a": "b"}}).encode()
    for seed in seeds:
        content = damage(random.Random(seed), whole)
        found = parse_record(content)
        try:
            plain = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            plain = None
        assert isinstance(found, dict | str), seed
        assert isinstance(found, dict) == isinstance(plain, dict), seed


READERS: dict[str, Callable[[Path, list[int]], None]] = {
    "parquet": fuzz_parquet,
    "jsonl": fuzz_jsonl,
    "tsv": fuzz_tsv,
    "csv": fuzz_csv,
    "wat": fuzz_wat,
    "wat_file": fuzz_wat_file,
    "tar": fuzz_tar,
    "json": fuzz_json,
}
# Numbers of inputs of the fast and of the slow test.
NUMBERS = {
    "parquet": (1000, 100_000),
    "jsonl": (20_000, 1_000_000),
    "tsv": (20_000, 1_000_000),
    "csv": (500, 100_000),
    "wat": (5000, 1_000_000),
    "wat_file": (500, 100_000),
    "tar": (500, 100_000),
    "json": (5000, 1_000_000),
}


def run_child(reader: str, first: int, last: int, folder: Path, limit_s: int) -> None:
    command = [sys.executable, __file__, reader, str(first), str(last), str(folder), str(limit_s)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.mark.parametrize("reader", READERS)
def test_damaged_inputs_are_read_or_refused(tmp_path: Path, reader: str) -> None:
    run_child(reader, 0, NUMBERS[reader][0], tmp_path, limit_s=120)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_million_damaged_inputs_are_read_or_refused(tmp_path: Path, reader: str) -> None:
    number, step = NUMBERS[reader][1], 100_000
    for first in range(0, number, step):
        run_child(reader, first, first + step, tmp_path, limit_s=900)


def main() -> None:
    reader, first, last, folder, limit_s = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.alarm(int(limit_s))
    READERS[reader](Path(folder), [*FOUND.get(reader, []), *range(int(first), int(last))])


if __name__ == "__main__":
    main()
