"""Fuzzing: a damaged file of any format is a BadShard or gives counts that add up; no other error, no hang.

Many damaged inputs of one reader are read in a child process under a limit of memory and time.  The child fails for any
error but BadShard, for memory above the limit and for a pair that a plain reader does not see.
`python tests/pool/test_fuzz.py READER FIRST LAST FOLDER SECONDS` runs the seeds of one reader.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import signal
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldclip import pool
from worldclip.contracts.reasons import Reason
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.plugins.crawl.wat import REASONS, _rows_of_page, extract_file
from worldclip.pool.config import PoolConfig
from worldclip.pool.records import parse_record

MEMORY_BYTES = 6 << 30  # of address space, of which libraries take half
# Seeds of inputs that once failed.
FOUND: dict[str, list[int]] = {"tsv": [1]}
PIECES = [b"{", b"}", b"[", b'"', b"\\", b"\\ud800", b"\0", b"\xff", b"1e999", b"null", b":", b",", b"\n", b"\t", b"\r"]
TABLE = PoolConfig(path="pool", key="uid", texts=("text", "texts"))
TAR = PoolConfig(path="pool", key="json:uid", texts=("txt", "json:texts"))
Fuzz = Callable[[Path, list[int]], None]
"""Reads an input per seed, with a folder for its files."""
COLUMNS = pa.table({"uid": ["a", None, "b"], "text": ["x", "y", None], "texts": [["p"], [], ["q", None]]})


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


def cut_or_damage(seed: int, wholes: Sequence[bytes]) -> bytes:
    """Return one of `wholes`, cut off for each fifth seed and damaged for the others."""
    rng = random.Random(seed)
    whole = rng.choice(wholes)
    return whole[: rng.randrange(len(whole))] if seed % 5 == 0 else damage(rng, whole)


def check(path: Path, config: PoolConfig) -> pool.PoolTexts | None:
    """Assert what holds for every shard that can be read at all; None for a BadShard."""
    shard = Shard(name=path.name, path=str(path))
    try:
        texts = pool.read_texts(shard, config)
        keys, num_without, num_repeated = pool.read_keys(shard, config)
        pool.index_of(shard, config)
    except BadShard:
        return None
    rows = len(texts.key)
    assert rows == len(texts.text_idx) == len(texts.text) == len(texts.reason)
    assert [text is None for text in texts.text.to_pylist()] == [code != Reason.KEPT for code in texts.reason]
    starts = [i == 0 for i in texts.text_idx.to_pylist()]
    assert sum(starts) == len(keys) + num_without + num_repeated
    texts.text.validate(full=True)
    texts.key.validate(full=True)
    assert len(set(keys.to_pylist())) == len(keys)
    return texts


# --- readers ----------------------------------------------------------------------------------------------------------


def fuzz_files(name: str, config: PoolConfig, wholes: Sequence[bytes]) -> Fuzz:
    """Return a function that reads one damaged or cut file per seed."""

    def fuzz(folder: Path, seeds: list[int]) -> None:
        for seed in seeds:
            (folder / name).write_bytes(cut_or_damage(seed, wholes))
            check(folder / name, config)

    return fuzz


def parquet_of(compression: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(COLUMNS, file, compression=compression)
    return file.getvalue()


def fuzz_footer(folder: Path, seeds: list[int]) -> None:
    """Change one byte of a Parquet footer per seed: by 16, the next length of a list, or by another number."""
    whole = parquet_of("none")
    footer_bytes = 8 + int.from_bytes(whole[-8:-4], "little")
    for seed in seeds:
        by, at = divmod(seed, footer_bytes)
        content = bytearray(whole)
        content[-1 - at] = (content[-1 - at] + 16 + by) % 256
        (folder / "0.parquet").write_bytes(content)
        check(folder / "0.parquet", TABLE)


def packed_jsonl() -> bytes:
    """Return lines in two members of gzip."""
    records = [{"uid": f"k{n}", "text": "ü\0x", "texts": ["a", None, "\U0001f600"]} for n in range(4)]
    lines = "\n".join(map(json.dumps, records)).encode()
    return gzip.compress(lines[:50]) + gzip.compress(lines[50:])


def fuzz_jsonl(folder: Path, seeds: list[int]) -> None:
    """Read one line per seed, all in one file, beside a plain reader of each line."""
    lines = []
    for seed in seeds:
        rng = random.Random(seed)
        record = {"uid": f"k{seed}", "text": rng.choice(["x", "ü\0", "", None, 3, ["a", None], {"a": 1}])}
        lines.append(damage(rng, json.dumps(record).encode()).replace(b"\n", b" "))
    (folder / "0.jsonl").write_bytes(b"\n".join(lines))
    uids: list[str | None] = [plain_uid(line) for line in lines if line.strip()]
    texts = check(folder / "0.jsonl", TABLE)
    assert texts is not None
    keys = dict.fromkeys(uid for uid in uids if uid is not None)
    read_keys, num_without, num_repeated = pool.read_keys(Shard(name="0.jsonl", path=str(folder / "0.jsonl")), TABLE)
    assert read_keys.to_pylist() == list(keys)
    assert num_without == uids.count(None)
    assert num_repeated == len(uids) - num_without - len(keys)


def plain_uid(line: bytes) -> str | None:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    uid = record.get("uid") if isinstance(record, dict) else None
    is_text = isinstance(uid, str) and uid != "" and not any("\ud800" <= char <= "\udfff" for char in uid)
    is_number = isinstance(uid, int) and not isinstance(uid, bool)
    return str(uid) if is_text or is_number else None


def fuzz_tsv(folder: Path, seeds: list[int]) -> None:
    """Read one row per seed, all in one file, beside a plain split of each line."""
    lines = []
    for seed in seeds:
        line = damage(random.Random(seed), f'k{seed}\ta "text" of {seed}'.encode())
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" "))
    (folder / "0.tsv").write_bytes(b"\n".join(lines) + b"\n")
    rows = [line.split(b"\t") for line in lines if line]
    good = [row for row in rows if len(row) == 2]
    texts = check(folder / "0.tsv", PoolConfig(path="pool", key="url", texts=("text",), columns=("url", "text")))
    assert texts is not None
    assert len(texts.key) == len(rows)
    for row, key, text in zip(good, texts.key.to_pylist(), texts.text.to_pylist(), strict=False):
        if text is not None:
            assert [key.encode(), text.encode()] == row


def fuzz_tar(folder: Path, seeds: list[int]) -> None:
    """Damage tars of three formats, mostly in a header whose checksum is then set right, and read them as a pool."""
    members = [
        ("0.jpg", b"x"),
        ("0.json", b'{"uid": "u", "texts": ["x", null]}'),
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
                header.size = len(content)
                header.mtime = 1.5 if tar_format == tarfile.PAX_FORMAT else 1
                tar.addfile(header, io.BytesIO(content))
        wholes.append(file.getvalue()[:-7680])
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
            content = bytearray(cut_or_damage(seed, wholes))
        (folder / "0.tar").write_bytes(content)
        for config in (PoolConfig(path="pool"), TAR):
            check(folder / "0.tar", config)


def fuzz_json(folder: Path, seeds: list[int]) -> None:
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


def page_of(links: list[dict[str, Any]], head: dict[str, str] | None = None) -> bytes:
    """Return a page of a WAT file."""
    html = {"Links": links, "Head": head or {}}
    page = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}}
    return json.dumps(page).encode()


def fuzz_wat(folder: Path, seeds: list[int]) -> None:
    link = {"path": "IMG@/src", "url": "a/0.jpg", "alt": "text", "title": ["t", None]}
    whole = page_of([link, {**link, "url": "//e.org/ü.jpg"}], {"Base": "http://b/"})
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


def fuzz_wat_file(folder: Path, seeds: list[int]) -> None:
    records = []
    for n in range(3):
        body = page_of([{"path": "IMG@/src", "url": f"{n}.jpg", "alt": f"text {n}"}])
        head = f"WARC/1.0\r\nWARC-Target-URI: http://e/\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        records.append(head + body + b"\r\n\r\n")
    wholes = [b"".join(records), b"".join(map(gzip.compress, records))]
    shard = Shard(name="0.wat", path=str(folder / "0.wat"))
    for seed in seeds:
        (folder / "0.wat").write_bytes(cut_or_damage(seed, wholes))
        try:
            report = extract_file(folder / "out", shard)
        except BadShard:
            continue
        assert report["links"] == sum(report[name] for name in REASONS), seed
        assert pq.read_table(folder / "out/parts/0.wat.links").num_rows == report["rows"], seed


# Quotes may swallow the rows after a damaged one.
CSV = b'uid,text\nk0,"a, ""b"""\nk1,c\r\n"k2","d\ne"\n'
# reader -> its function, and the numbers of inputs of the fast and of the slow test
READERS: dict[str, tuple[Fuzz, int, int]] = {
    "parquet": (fuzz_files("0.parquet", TABLE, [parquet_of("none"), parquet_of("zstd")]), 1000, 100_000),
    "parquet footer": (fuzz_footer, 1000, 100_000),
    "jsonl": (fuzz_jsonl, 20_000, 1_000_000),
    "packed jsonl": (fuzz_files("0.jsonl.gz", TABLE, [packed_jsonl()]), 500, 100_000),
    "tsv": (fuzz_tsv, 20_000, 1_000_000),
    "csv": (fuzz_files("0.csv", PoolConfig(path="pool", key="uid", texts=("text",)), [CSV]), 500, 100_000),
    "wat": (fuzz_wat, 5000, 1_000_000),
    "wat_file": (fuzz_wat_file, 500, 100_000),
    "tar": (fuzz_tar, 500, 100_000),
    "json": (fuzz_json, 5000, 1_000_000),
}


def run_child(reader: str, first: int, last: int, folder: Path, limit_s: int) -> None:
    from programs import python  # not at the top: the child has no helpers

    python(__file__, reader, first, last, folder, limit_s)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_inputs_are_read_or_refused(tmp_path: Path, reader: str) -> None:
    run_child(reader, 0, READERS[reader][1], tmp_path, limit_s=120)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_million_damaged_inputs_are_read_or_refused(tmp_path: Path, reader: str) -> None:
    step = 100_000
    for first in range(0, READERS[reader][2], step):
        run_child(reader, first, first + step, tmp_path, limit_s=900)


# --- what is not drawn by a seed --------------------------------------------------------------------------------------


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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.fixed_dictionaries({}, optional={"uid": JSON, "text": JSON, "texts": JSON}) | JSON, max_size=5))
def test_any_json_in_any_field_is_read_or_counted(tmp_path: Path, records: list[Any]) -> None:
    from pools import write_lines
    from tars import write_tar

    assert check(write_lines(tmp_path / "0.jsonl", records), TABLE) is not None
    members = [(f"{n}.json", json.dumps(record).encode()) for n, record in enumerate(records)]
    assert check(write_tar(tmp_path / "0.tar", members), TAR) is not None


def main() -> None:
    reader, first, last, folder, limit_s = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.alarm(int(limit_s))
    READERS[reader][0](Path(folder), [*FOUND.get(reader, []), *range(int(first), int(last))])


if __name__ == "__main__":
    main()
