"""Fuzzing: a damaged file of any format is a BadShard or gives counts that add up; no other error, no hang.

Many damaged inputs of one reader are read in a child process under a limit of memory and time.  The child fails for any
error but BadShard, for memory above the limit and for wrong counts.  Tars: tests/kernels/test_tar_headers.py.
`python tests/pool/test_fuzz.py READER FIRST LAST FOLDER SECONDS` runs the seeds of one reader.
"""

import gzip
import io
import json
import random
import resource
import signal
import sys
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
from worldclip.plugins.crawl.wat import REASONS, extract_file
from worldclip.pool.config import PoolConfig

MEMORY_BYTES = 6 << 30  # of address space, of which libraries take half
PIECES = [b"{", b"}", b"[", b'"', b"\\", b"\\ud800", b"\0", b"\xff", b"1e999", b"null", b":", b",", b"\n", b"\t", b"\r"]
TABLE = PoolConfig(path="pool", key="uid", texts=("text", "texts"))
ROWS = PoolConfig(path="pool", key="uid", texts=("text",))
TAR = PoolConfig(path="pool", key="json:uid", texts=("txt", "json:texts"))
Fuzz = Callable[[Path, list[int]], None]
"""Reads an input per seed, with a folder for its files."""
RECORDS = [{"uid": f"k{n}", "text": "ü\0x", "texts": ["a", None, "\U0001f600"]} for n in range(4)]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
COLUMNS = pa.table({"uid": ["a", None, "b"], "text": ["x", "y", None], "texts": [["p"], [], ["q", None]]})


def damage(rng: random.Random, content: bytes) -> bytes:
    """Return `content` with a few bytes changed, removed, inserted or repeated."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged) + 1)
        kind = rng.random()
        if kind < 0.2 and at < len(damaged):
            damaged[at] = (damaged[at] + 16) % 256  # in a Parquet footer the next length of a list
        elif kind < 0.4 and at < len(damaged):
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


def packed_jsonl() -> bytes:
    """Return lines in two members of gzip."""
    return gzip.compress(LINES[:50]) + gzip.compress(LINES[50:])


def fuzz_wat(folder: Path, seeds: list[int]) -> None:
    records = []
    for n in range(3):
        link = {"path": "IMG@/src", "url": ("a/0.jpg", "//e.org/ü.jpg")[n % 2], "alt": "text", "title": ["t", None]}
        html = {"Links": [link], "Head": {"Base": "http://b/"}}
        page = {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}}
        body = json.dumps(page).encode()
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
# reader -> its function, and the number of inputs; the slow test reads 100 times as many
READERS: dict[str, tuple[Fuzz, int]] = {
    "parquet": (fuzz_files("0.parquet", TABLE, [parquet_of("none"), parquet_of("zstd")]), 2000),
    "jsonl": (fuzz_files("0.jsonl", TABLE, [LINES]), 2000),
    "packed jsonl": (fuzz_files("0.jsonl.gz", TABLE, [packed_jsonl()]), 500),
    "tsv": (fuzz_files("0.tsv", ROWS, [b'uid\ttext\nk0\ta "b"\nk1\tc\r\n']), 1000),
    "csv": (fuzz_files("0.csv", ROWS, [CSV]), 1000),
    "wat": (fuzz_wat, 1000),
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
    number = READERS[reader][1]
    for part in range(100):
        run_child(reader, number * part, number * (part + 1), tmp_path, limit_s=900)


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


if __name__ == "__main__":
    reader, first, last, folder, limit_s = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.alarm(int(limit_s))
    READERS[reader][0](Path(folder), list(range(int(first), int(last))))
