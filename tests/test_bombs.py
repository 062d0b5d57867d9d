"""Small files that stand for gigabytes are refused by name, before memory holds what they unpack to."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pools import encode
from tars import shard_of
from worldclip.core import parquet_size, unpack
from worldclip.core.errors import BadShard, UserError
from worldclip.core.keys import key_lists
from worldclip.core.parquet_size import check_parquet
from worldclip.metadata import lists
from worldclip.metadata.sources import dumps, titles
from worldclip.model import decode as decoding
from worldclip.plugins.crawl import wat
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.delimited import CSV, TSV
from worldclip.pool.formats.jsonl import JSONL
from worldclip.pool.formats.parquet import PARQUET

PAGE = b"<mediawiki><page><title>T</title><ns>0</ns><revision><text>"
CONFIG = PoolConfig(path=".", key="key")
WARC = b"WARC/1.0\r\nContent-Length: %d\r\n\r\n"
LINKS = b'{"x": ["IMG@/src", ' + b"[]," * 2**19 + b"1]}"

BOMBS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.xml.bz2": (bz2.compress(PAGE + b"a" * 2**25), lambda path: list(dumps.read_texts(path))),
    "views.bz2": (bz2.compress(b"sw " + b"a" * 2**25), lambda path: list(titles._iter_blocks(path))),
    "names.json.gz": (gzip.compress(b"[]," * 2**20), titles.read_namespaces),
    "words.txt.gz": (gzip.compress(b"a\n" * 2**18), lambda path: list(lists.read_list(str(path)))),
    "wordnet.tab.gz": (gzip.compress(b"\ta" * 2**20), lambda path: next(lists.iter_lines(str(path)))),
    "a.jsonl.gz": (gzip.compress(b"{}\n" * 2**18), lambda path: JSONL.read_texts(shard_of(path), CONFIG)),
    "nested.jsonl.gz": (
        gzip.compress(b'{"a":[' + b"[]," * 2**20),
        lambda path: JSONL.read_keys(shard_of(path), CONFIG),
    ),
    "a.csv.gz": (gzip.compress(b"key,text\n" + b"a\n" * 2**18), lambda path: CSV.count_rows(shard_of(path), CONFIG)),
    "a.tsv.gz": (gzip.compress(b"key\ttext\n" + b"\t" * 2**21), lambda path: TSV.read_keys(shard_of(path), CONFIG)),
    "a.warc.wat.gz": (
        gzip.compress(WARC % len(LINKS) + LINKS),
        lambda path: wat.extract_file(path.parent / "out", shard_of(path)),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_compressed_bombs_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_DOCUMENT_BYTES", 2**17)
    content, read = BOMBS[name]
    (tmp_path / name).write_bytes(content)
    assert len(content) < unpack.SMALL_FILE_BYTES
    with pytest.raises(BadShard, match=r"for safety|larger than"):
        read(tmp_path / name)


ENDLESS = {
    "depth": b"<mediawiki>" + b"<a>" * 2**12,
    "tag": b"<mediawiki " + b"a" * 2**14,
    "text": PAGE + b"a" * 2**14,
    "namespaces": b"<mediawiki>" + b"".join(b"<namespace key='%d'/>" % number for number in range(2**10)),
}


@pytest.mark.parametrize("part", ENDLESS)
def test_plain_dumps_with_endless_parts_are_refused(part, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "MAX_PAGE_BYTES", 2**12)
    path = tmp_path / "a.xml"
    path.write_bytes(ENDLESS[part])
    with pytest.raises(BadShard, match=r"a\.xml: a page is larger than in any dump"):
        list(dumps.read_texts(path))


def test_a_stream_unpacks_to_a_thousand_times_its_size():
    packed = bz2.compress(b"a" * 2**25)
    with pytest.raises(BadShard, match="more than 1,000 times its size"):
        list(unpack.unpack(io.BytesIO(packed), "a.bz2"))


# --- Parquet ----------------------------------------------------------------------------------------------------------

BIG = "a" * 2**18


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"key": [str(n) for n in range(400)], "text": [BIG] * 400}),
        pa.table({"key": ["a"], "text": pa.array([[BIG] * 400], pa.list_(pa.string()))}),
        pa.table({"key": ["a"] * 400, "image": [{"bytes": BIG.encode(), "path": "a.png"}] * 400}),
        pa.table({"key": pa.nulls(300_000, pa.string())}),
        pa.table({"key": ["a"], "text": pa.array([[0] * 10**7], pa.list_(pa.int8()))}),
    ],
    ids=["texts", "lists", "images", "rows", "values"],
)
@pytest.mark.parametrize("has_dictionary", [True, False])
def test_parquet_bombs_are_refused(table, has_dictionary, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_size, "MAX_MEMORY_BYTES", 2**26)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=has_dictionary)
    del table
    with pytest.raises(BadShard, match="too large for safety"):
        PARQUET.read_columns(shard_of(path), CONFIG, ["key"])
    with pytest.raises(BadShard, match=r"dump\.parquet: what it unpacks to is too large"):
        list(dumps.read_texts(path.rename(tmp_path / "dump.parquet")))
    with pytest.raises(UserError, match=r"pool\.deny_keys is .*cannot be read \(what it unpacks to is too large"):
        key_lists(None, [str(tmp_path / "dump.parquet")])


def test_parquet_with_repeated_short_texts_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"key": [str(n) for n in range(10_000)], "text": ["a" * 100] * 10_000})
    pq.write_table(table, path)
    check_parquet(path, path.stat().st_size)
    assert PARQUET.read_columns(shard_of(path), CONFIG, ["key", "text"])[0].equals(table)


# --- images -----------------------------------------------------------------------------------------------------------


def black(size: tuple[int, int], kind: str = "PNG") -> bytes:
    return encode(Image.new("RGB", size), kind)


def icon(picture: bytes) -> bytes:
    """Return an ICO whose directory says 256 x 256."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(picture), 22) + picture


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_small_files_of_many_pixels_are_bombs(kind, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS_OF_SMALL", {"JPEG": 10_000, "PNG": 10_000})
    monkeypatch.setattr(decoding, "MAX_PIXELS_OF_OTHER_SMALL", 10_000)
    assert decoding.decode(black((100, 100), kind)).shape == (100, 100, 3)
    with pytest.raises(decoding.BadImage, match=r"120 x 90 pixels in \d+ bytes, too many for a file") as error:
        decoding.decode(black((120, 90), kind))
    assert error.value.reason == decoding.BOMB


def test_icons_are_measured_before_they_are_opened():
    header = black((1, 1))
    bomb = header[:16] + struct.pack(">II", 13_300, 13_300) + header[24:]
    bitmap = struct.pack("<IiiHHIIiiII", 40, 20_000, 40_000, 1, 1, 0, 0, 0, 0, 0, 0)
    for picture in (bomb, bitmap):
        with pytest.raises(decoding.BadImage, match="too many for a file below 4 MiB"):
            decoding.decode(icon(picture))
    assert decoding.decode(icon(black((64, 64)))).shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "I;16", "P", "CMYK", "F", "I"])
def test_strips_give_the_same_pixels(mode, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    if mode in ("I;16", "F", "I"):
        image = Image.fromarray(levels[:, :, 0].astype(np.uint16) << 8 if mode == "I;16" else levels[:, :, 0].astype(
            np.float32 if mode == "F" else np.int32))  # fmt: skip
    else:
        image = Image.fromarray(levels).convert(mode)
    image.format = "PNG"
    whole = decoding.pixels_of(image)
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 100)
    assert np.array_equal(decoding.pixels_of(image), whole)
