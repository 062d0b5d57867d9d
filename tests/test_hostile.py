"""Hostile files: each reader gets damaged, cut and special files, and bombs; it reads them, or refuses them in words.

    python tests/test_hostile.py --only pool/ --seeds 0 1000000

reads many more damaged files, in one process under a limit of memory.  The last file stays where a process ended.
"""

import argparse
import bz2
import gzip
import io
import itertools
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import tarfile
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from damaged_images import PICTURES, SIGNATURE, chunk
from fasttext_files import KINDS, LABELS, TEXTS, WORDS, write_model
from plain_recipe import LISTS, make_recipe, run_stages, write_metadata
from pools import encode, images_of, parquet_of, texts_of, write_lines, write_table
from programs import python
from stages import QUIET, context
from tars import as_json, sample, shard_of, write_tar
from worldclip import pool
from worldclip.config import load_recipe
from worldclip.contracts import layout, schemas
from worldclip.contracts.reasons import Reason
from worldclip.contracts.records import read_results
from worldclip.core import artifacts, unpack
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.keys import key_lists
from worldclip.core.parquet_size import check_parquet
from worldclip.core.settings import to_toml
from worldclip.evaluate.datasets import cvqa
from worldclip.evaluate.datasets.common import images, text_files
from worldclip.export import model_card
from worldclip.language.identify import Identifier
from worldclip.metadata import lists
from worldclip.metadata.sources import dumps, titles
from worldclip.model import decode as decoding
from worldclip.model import load, weights
from worldclip.model.images import open_image
from worldclip.plugins.crawl import wat
from worldclip.plugins.publish import tables
from worldclip.plugins.publish.card import card
from worldclip.pool import files
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.delimited import CSV, TSV
from worldclip.pool.formats.jsonl import JSONL
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.formats.records import parse_record
from worldclip.pool.stage import index_shard
from worldclip.report import write_report
from worldclip.report.train import read_log
from worldclip.tools.dedup import dedup
from worldclip.tools.inspect_run import inspect_key, key_to_text

MAX_CUTS = 150  # of the files of a reader
MEMORY_BYTES = 8 << 30  # of address space, of which libraries take half
PIECES = [b"", b"\0", b"\xff", b"../../x", b"-1", b"1e999", b"{", b"[" * 2000, b'"', b"null", b"=", b"\n", b"\t", b"\r"]
PIECES += [b"\\ud800", b"}", b":", b",", b"99999999999999999999"]
NUMBERS = [-(2**31), -2, -1, 0, 1, 2, 3, 5, 7, 64, 127, 255, 256, 65_535, 65_536, 10**6, 2**27, 2**30, 2**31 - 1]


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return a file with bytes replaced, removed, repeated or inserted, or with numbers written over them."""
    damaged = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 8])):
        size = len(damaged)
        at = draw.choice([draw.randrange(size + 1), draw.randrange(size + 1), draw.randrange(min(size, 256) + 1)])
        at = max(0, size - at) if draw.random() < 0.2 else at
        kind = draw.randrange(6)
        if kind < 2:
            damaged[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 2:
            del damaged[at : at + draw.choice([1, 3, 40])]
        elif kind == 3:
            damaged[at : at + draw.choice([0, 1, 4])] = draw.choice(PIECES)
        elif kind == 4:
            damaged[at:at] = damaged[at : at + draw.randint(1, 64)]
        else:
            at -= at % 4
            width = draw.choice(["<i", ">i", "<q"])
            damaged[at : at + struct.calcsize(width)] = struct.pack(width, draw.choice(NUMBERS))
    return bytes(damaged)


@dataclass(frozen=True)
class Reader:
    """A file, and what reads it: UserError and BadShard refuse it, any other error is a fault."""

    make: Callable[[Path], list[bytes]]
    """Returns sound files, given the folder where they will stand."""
    read: Callable[[Path], object]
    num_seeds: int = 150
    damage: Callable[[bytes, random.Random], bytes] = damage
    further: Callable[[list[bytes]], Iterable[bytes]] = lambda wholes: ()
    """Files that are tried as well, most of which once failed."""


def of(*wholes: bytes) -> Callable[[Path], list[bytes]]:
    return lambda folder: list(wholes)


# --- pools ------------------------------------------------------------------------------------------------------------

TABLE = PoolConfig(path="pool", key="uid", texts=("text", "texts"))
TAR = PoolConfig(path="pool", key="json:uid", texts=("txt", "json:texts"))
PAIRS = PoolConfig(path="pool", key="uid", texts=("text",))
PICTURED = PoolConfig(path="pool", key="uid", texts=("text",), image_field="file")
COLUMNS = pa.table({"uid": ["a", None, "b"], "text": ["x", "y", None], "texts": [["p"], [], ["q", None]]})
LINES = "\n".join(json.dumps({"uid": f"k{n}", "text": "ü\0x", "texts": ["a", None, "\U0001f600"]}) for n in range(4))
PACKED_LINES = gzip.compress(LINES.encode()[:50]) + gzip.compress(LINES.encode()[50:])  # two members


def check(path: Path, config: PoolConfig) -> pool.PoolTexts:
    """Read a shard in all ways, and assert what holds for one that can be read at all."""
    shard = shard_of(path)
    index_shard(shard, config=config, run_dir=path.parent / "read", needs_texts=True)
    texts = pool.read_pairs(path.parent / "read", shard.name, pool.EVERY_KEY)
    keys, num_without, num_repeated = pool.read_keys(path.parent / "read", shard.name)
    rows = len(texts.key)
    assert rows == len(texts.text_idx) == len(texts.text) == len(texts.reason)
    assert [text is None for text in texts.text.to_pylist()] == [code != Reason.KEPT for code in texts.reason]
    starts = [i == 0 for i in texts.text_idx.to_pylist()]
    assert sum(starts) == len(keys) + num_without + num_repeated
    texts.text.validate(full=True)
    texts.key.validate(full=True)
    assert len(set(keys.to_pylist())) == len(keys)
    return texts


def tables_of_pictures(folder: Path) -> list[bytes]:
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(b"x")
    return [b"uid,text,file\nk0,a,a.png\nk1,b,b.jpg\nk2,c,../c.png\nk3,d,/dev/zero\n"]


def check_pictures(path: Path) -> None:
    texts = check(path, PICTURED)
    index, images = images_of(shard_of(path), PICTURED)
    assert set(images) <= {b"x"}, "a file that is no picture next to the table"
    assert {*index["key"].to_pylist()} <= {*texts.key.to_pylist()}


def check_tar(path: Path) -> None:
    check(path, PoolConfig(path="pool"))
    check(path, TAR)


def table_of(compression: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(COLUMNS, file, compression=compression)
    return file.getvalue()


def footers(wholes: list[bytes]) -> Iterator[bytes]:
    """Yield tables with each byte of the footer changed by 16, the next length of a list."""
    whole = wholes[0]
    for at in range(1, 9 + int.from_bytes(whole[-8:-4], "little")):
        content = bytearray(whole)
        content[-at] = (content[-at] + 16) % 256
        yield bytes(content)


def tars_of_formats(folder: Path) -> list[bytes]:
    members = [("0.jpg", b"x"), ("0.json", b'{"uid": "u", "texts": ["x", null]}'), ("0.txt", b"a")]
    members += [("d" * 90 + "/é1.jpg", b"y"), ("1.txt", b"b")]
    wholes = []
    for tar_format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                header.mtime = 1.5 if tar_format == tarfile.PAX_FORMAT else 1
                tar.addfile(header, io.BytesIO(content))
            end = tar.offset
        wholes.append(file.getvalue()[: end + 1024])
    return wholes


def damage_header(whole: bytes, draw: random.Random) -> bytes:
    """Damage a tar, mostly in a header whose checksum is then set right."""
    if draw.random() < 0.2:
        return damage(whole, draw)
    content = bytearray(whole)
    start = draw.randrange(len(content) // 512) * 512
    block = bytearray(damage(bytes(content[start : start + 512]), draw)[:512].ljust(512, b"\0"))
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    content[start : start + 512] = block
    return bytes(content)


def wats(folder: Path) -> list[bytes]:
    """Return a WARC file of three pages, plain and packed."""
    records = []
    for n in range(3):
        link = {"path": "IMG@/src", "url": f"{n}/ü.jpg", "alt": f"text {n}", "title": ["t", None]}
        html = {"Links": [link, {**link, "url": "//e.org/0.jpg"}], "Head": {"Base": "http://b/"}}
        body = as_json({"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": html}}}})
        head = f"WARC/1.0\r\nWARC-Target-URI: http://e/\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        records.append(head + body + b"\r\n\r\n")
    return [b"".join(records), b"".join(map(gzip.compress, records))]


def read_wat(path: Path) -> None:
    report = wat.extract_file(path.parent / "out", shard_of(path))
    assert report["links"] == sum(report[name] for name in wat.REASONS)
    rows = pq.read_table(path.parent / f"out/parts/{path.name}.links")
    assert rows.num_rows == report["rows"]
    urls = [url for name in rows.column_names if name == "url" for url in rows[name].to_pylist()]
    assert all(url.startswith(("http://", "https://")) for url in urls)


def key_arrays(folder: Path) -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.arange(8, dtype=np.uint64).view([("f0", "u8"), ("f1", "u8")]))
    return [file.getvalue()]


def as_pool(config: PoolConfig) -> Callable[[Path], object]:
    return lambda path: check(path, config)


def read_keys(path: Path) -> object:
    return key_lists(None, [str(path)], path.parent)


def damaged_headers(wholes: list[bytes]) -> list[bytes]:
    """Return arrays of keys whose headers end Python 3.13's tokenizer with a SystemError, numpy with an overflow."""
    header = b"{'descr': " + b"\xff" * 8 + b"'<u8'), \xc6'f1', '<u8')], 'fortran_order': False, 'shape': (4,),\n"
    beyond_ascii = wholes[0][:10] + header.ljust(110) + b"\x89\n" + bytes(6) + wholes[0][128:]
    return [beyond_ascii, wholes[0].replace(b"(4,), }" + b" " * 18, b"(9999999999999999999,), }")]


POOLS = {
    "0.parquet": Reader(of(table_of("none"), table_of("zstd")), as_pool(TABLE), further=footers),
    "0.jsonl": Reader(of(LINES.encode()), as_pool(TABLE)),
    "0.jsonl.gz": Reader(of(PACKED_LINES), as_pool(TABLE)),
    "0.csv": Reader(of(b'uid,text\nk0,"a, ""b"""\nk1,c\r\n"k2","d\ne"\n'), as_pool(PAIRS)),
    "pictures.csv": Reader(tables_of_pictures, check_pictures),
    "0.tsv": Reader(of(b'uid\ttext\nk0\ta "b"\nk1\tc\r\n'), as_pool(PAIRS)),
    "0.tar": Reader(tars_of_formats, check_tar, damage=damage_header, num_seeds=300),
    "0.wat": Reader(wats, read_wat, num_seeds=200),
    "keys.npy": Reader(key_arrays, read_keys, further=damaged_headers),
    "keys.parquet": Reader(of(parquet_of({"key": ["a", "b"]})), read_keys),
    "keys.txt": Reader(of(b"a\nb\n"), read_keys),
}

# --- recipes, lists and dumps -----------------------------------------------------------------------------------------

PAGE = b"<mediawiki><page><title>T</title><ns>0</ns><revision><text>"
DUMP = PAGE + "паpa mweusi [[a|b]] {{c}}".encode() + b"</text></revision></page></mediawiki>"


def recipe_of_all_kinds(folder: Path) -> list[bytes]:
    values = {
        "pool": {"path": ["s3://bucket/a", "/data/b"]},
        "balance": {"english_threshold": 20_000, "tail_fractions": {"sw": 0.1}},
        "languages": {"codes": ["en", "sw", "th"]},
    }
    return [to_toml(load_recipe(values)).encode()]


def read_list(path: Path) -> object:
    return list(lists.read_list(str(path)))


def lists_of_a_run(folder: Path) -> list[bytes]:
    write_metadata(folder, LISTS)
    return [path.read_bytes() for path in (folder / "metadata").glob("*.parquet")]


def copy_list(path: Path) -> object:
    return lists.write_whole_list(str(path), path.with_name("copy.parquet"))


def read_dump(path: Path) -> object:
    return list(dumps.read_texts(path))


METADATA = {
    "recipe.toml": Reader(recipe_of_all_kinds, load_recipe),
    "entries.txt": Reader(of("cat\nмир\n".encode()), read_list),
    "entries.txt.gz": Reader(of(gzip.compress(b"cat\ndog\n")), read_list),
    "entries.json": Reader(of(b'["cat", "dog"]'), read_list),
    "list.parquet": Reader(lists_of_a_run, copy_list),
    "dump.xml": Reader(of(DUMP), read_dump),
    "dump.xml.bz2": Reader(of(bz2.compress(DUMP)), read_dump),
    "dump.parquet": Reader(of(parquet_of({"title": ["T"], "text": ["paka"]})), read_dump),
}

# --- models -----------------------------------------------------------------------------------------------------------


def safetensors(folder: Path) -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [save({"a": torch.zeros(3, 4), "b.weight": torch.ones(5, dtype=torch.float16)}, {"format": "pt"})]


def pickles(folder: Path) -> list[bytes]:
    import torch

    file = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(3, 4), "b.weight": torch.ones(5)}}, file)
    return [file.getvalue()]


def indices(folder: Path) -> list[bytes]:
    names = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    for name in names.values():
        (folder / name).touch()
    return [as_json({"metadata": {"total_size": 10}, "weight_map": names})]


def read_weights(path: Path) -> None:
    weights.read_state(path)


def read_index(path: Path) -> None:
    for file in weights.weight_files(path.parent, "model.safetensors"):
        assert file.parent == path.parent


def small_onnx(location: str | None = None) -> bytes:
    """Return a model that adds four numbers to its input, kept in the model or in the file `location` beside it."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    tensor = helper.make_tensor("c", numbers, [4], [1.0, 2.0, 3.0, 4.0])
    if location is not None:
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="16")
    ends = [helper.make_tensor_value_info(name, numbers, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def read_onnx(path: Path) -> None:
    from worldclip.model.formats.onnx_backend import open_session

    open_session(path)


# Offsets of the head's fields, and the numbers that ended the process or hung: the kernels check no bounds.
FASTTEXT_FIELDS = {
    4: [0, 9, 10, 13],  # version
    8: [-1, 0, 5, 7, 2**30],  # dim
    28: [-1, 2, 2**31 - 1],  # wordNgrams
    32: [0, 1, 2, 4, 5],  # loss
    36: [1, 2],  # model
    40: [-1, 0, 1, 499, 501, 2**31 - 1],  # bucket
    44: [-1, 0, 2**31 - 1],  # minn
    48: [-1, 0, 2**31 - 1],  # maxn
    64: [-1, 0, 15, 17, 2**31 - 1],  # size
    68: [-1, 0, 8, 10],  # words
    72: [-1, 0, 1, 8],  # labels
    84: [-1, 0, 1, 121, 2**31 - 1],  # pruned
}


def fasttext_models(folder: Path) -> list[bytes]:
    wholes = []
    for kind in KINDS.values():
        write_model(folder / "whole.bin", kind, WORDS, LABELS)
        wholes.append((folder / "whole.bin").read_bytes())
    return wholes


def wrong_fields(wholes: list[bytes]) -> Iterator[bytes]:
    for whole, (at, numbers) in itertools.product(wholes, FASTTEXT_FIELDS.items()):
        for number in numbers:
            yield whole[:at] + struct.pack("<i", number) + whole[at + 4 :]


def label(path: Path) -> None:
    identifier = Identifier(path)
    label_ids, probs = identifier.predict_ids([*TEXTS, "x" * 20_000, "a b " * 5_000])
    assert label_ids.min() >= -1
    assert label_ids.max() < len(identifier.labels)
    assert ((probs >= 0) & (probs <= 1) | np.isnan(probs)).all()


def damage_inside(data: bytes, draw: random.Random) -> bytes:
    """Return a PNG damaged behind its checksums and its compression; a file of another format damaged as it is."""
    if not data.startswith(SIGNATURE):
        return damage(data, draw)
    chunks, at = [], len(SIGNATURE)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    damaged = draw.randrange(len(chunks))
    for i, (kind, body) in enumerate(chunks):
        if kind == b"IDAT" and draw.random() < 0.7:
            chunks[i] = (kind, zlib.compress(damage(zlib.decompress(body), draw), 1))
        elif i == damaged and body:
            chunks[i] = (kind, damage(body, draw))
    return SIGNATURE + b"".join(chunk(kind, body) for kind, body in chunks)


def read_picture(path: Path) -> None:
    """Decode in every way: by simplejpeg where it is installed, by Pillow, scaled, and as a user's file."""
    if isinstance(refusal := open_image(path, applies_exif=True), str):
        raise UserError(refusal)
    data = path.read_bytes()
    for pixels in (decoding.decode(data), decoding.pixels_of(decoding.open_image(data)), decoding.decode(data, 40)):
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert pixels.size <= 3 * decoding.MAX_PIXELS


def pictures(start: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [data for name, data in PICTURES.items() if name.startswith(tuple(start.split()))]


MODELS = {
    "model.safetensors": Reader(safetensors, read_weights),
    "model.pt": Reader(pickles, weights.read_state),
    "model.safetensors.index.json": Reader(indices, read_index),
    "config.json": Reader(of(b'{"model_type": "clip"}'), weights.read_json_config),
    "model.onnx": Reader(lambda folder: [small_onnx()], read_onnx),
    "lid.bin": Reader(fasttext_models, label, further=wrong_fields, num_seeds=150),
}
IMAGES = {
    "0.jpg": Reader(pictures("jpeg"), read_picture, num_seeds=200),
    "0.png": Reader(pictures("png apng"), read_picture, damage=damage_inside, num_seeds=200),
    "0.webp": Reader(pictures("webp gif bmp tiff dds avif"), read_picture, num_seeds=200),
}
GROUPS = {"pool": POOLS, "metadata": METADATA, "model": MODELS, "images": IMAGES}
READERS = {f"{group}/{name}": reader for group, readers in GROUPS.items() for name, reader in readers.items()}
FURTHER: dict[str, Callable[[Path], object]] = {
    "fingerprint": lambda path: artifacts.fingerprint(path, path.parent),
    "manifest.json": artifacts.read_json,
    "config.json": weights.read_json_config,
    "folder/model.safetensors": lambda path: load.find(path.parent),
    "shard bytes": lambda path: files.FileBytes(str(path)),
    "shard range": lambda path: files.read_range(str(path), 0, 10),
    "dataset.txt": text_files.read_lines,
    "dataset.json": text_files.read_json,
    "dataset.parquet": cvqa._open,
    "dataset.jpg": images._read,
    "train/best.json": lambda path: layout.best_of(path.parent),
    "train/log.jsonl": read_log,
    "evaluate/results.jsonl": read_results,
    "evaluate/table.md": model_card._read_text,
    "curate/DATA_CARD.md": lambda path: card(path.parents[1], {}),
    "curate/tars/0.tar": lambda path: list(tables._samples(path)),
}
"""Readers that get special files only: their callers name a damaged one."""

# --- rows and records, next to a plain reader of each -----------------------------------------------------------------


def plain_json(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def plain_uid(line: bytes) -> str | None:
    record = plain_json(line)
    uid = record.get("uid") if isinstance(record, dict) else None
    is_text = isinstance(uid, str) and uid != "" and not any("\ud800" <= char <= "\udfff" for char in uid)
    is_number = isinstance(uid, int) and not isinstance(uid, bool)
    return str(uid) if is_text or is_number else None


def compare_lines(folder: Path, seeds: range) -> None:
    lines = []
    for seed in seeds:
        draw = random.Random(seed)
        record = {"uid": f"k{seed}", "text": draw.choice(["x", "ü\0", "", None, 3, ["a", None], {"a": 1}])}
        lines.append(damage(as_json(record), draw).replace(b"\n", b" "))
    path = folder / "lines.jsonl"
    path.write_bytes(b"\n".join(lines))
    check(path, TABLE)
    uids = [plain_uid(line) for line in lines if line.strip()]
    keys = dict.fromkeys(uid for uid in uids if uid is not None)
    read_keys, num_without, num_repeated = pool.read_keys(folder / "read", path.name)
    assert read_keys.to_pylist() == list(keys)
    assert num_without == uids.count(None)
    assert num_repeated == len(uids) - num_without - len(keys)


def compare_rows(folder: Path, seeds: range) -> None:
    lines = []
    for seed in seeds:
        line = damage(f'k{seed}\ta "text" of {seed}'.encode(), random.Random(seed))
        lines.append(line.replace(b"\n", b" ").replace(b"\r", b" "))
    path = folder / "rows.tsv"
    path.write_bytes(b"\n".join(lines) + b"\n")
    rows = [line.split(b"\t") for line in lines if line]
    texts = check(path, PoolConfig(path="pool", key="url", texts=("text",), columns=("url", "text")))
    assert len(texts.key) == len(rows)
    for row, key, text in zip(rows, texts.key.to_pylist(), texts.text.to_pylist(), strict=True):
        assert text is None or [key.encode(), text.encode()] == row


def compare_records(folder: Path, seeds: range) -> None:
    whole = json.dumps({"uid": "ü\ud800", "n": [1, -2.5e300, None, True], "texts": {"a": "b"}}).encode()
    for seed in seeds:
        content = damage(whole, random.Random(seed))
        record = parse_record(content)
        assert isinstance(record, dict | str), seed
        assert isinstance(record, dict) == isinstance(plain_json(content), dict), seed


COMPARED = (compare_lines, compare_rows, compare_records)

# --- the tests --------------------------------------------------------------------------------------------------------


def contents_of(reader: Reader, wholes: Sequence[bytes], seeds: range) -> Iterator[tuple[object, bytes]]:
    """Yield damaged files with what names them, then, for seeds from 0 on, those cut off and those that once failed."""
    for seed in seeds:
        draw = random.Random(seed)
        yield seed, reader.damage(draw.choice(wholes), draw)
    if seeds.start > 0:
        return
    step = max(1, sum(map(len, wholes)) // MAX_CUTS)
    for i, whole in enumerate(wholes):
        for at in range(0, len(whole), step):
            yield f"{i} cut at {at}", whole[:at]
    yield from enumerate(reader.further(list(wholes)))


def read_all(name: str, folder: Path, seeds: range) -> int:
    """Read the sound files of a reader, then damaged ones; return how many.  Raises what is no refusal."""
    reader = READERS[name]
    wholes = reader.make(folder)
    path = folder / name.partition("/")[2]
    for whole in wholes:
        path.write_bytes(whole)
        reader.read(path)
    number = 0
    for case, content in contents_of(reader, wholes, seeds):
        number += 1
        path.write_bytes(content)
        try:
            reader.read(path)
        except (UserError, BadShard, decoding.BadImage):
            continue
        except BaseException as error:
            error.add_note(f"{name}: {case}, {path}")
            raise
    return number


def in_child(groups: Sequence[str], folder: Path, *options: object) -> str:
    """Read all files of some groups in a process of its own: native code may end it."""
    here = Path(__file__).parent
    path = ":".join([str(here), str(here / "helpers"), *filter(None, sys.path)])
    only = [f"{group}/" for group in groups]
    return python("-X", "faulthandler", __file__, "--only", *only, "--folder", folder, *options, PYTHONPATH=path)


@pytest.mark.parametrize("groups", [("pool", "metadata", "images"), ("model",)])
def test_damaged_and_cut_files_are_read_or_refused(groups, tmp_path):
    for extra in ("torch", "onnxruntime", "onnx") if "model" in groups else ():
        pytest.importorskip(extra)
    assert in_child(groups, tmp_path).count(" files in ") == sum(len(GROUPS[group]) for group in groups)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_many_damaged_files_are_read_or_refused(group, tmp_path):
    in_child([group], tmp_path, "--seeds", 1_000, 21_000)


KINDS_OF_FILES = ("device", "fifo", "socket")


def make_special(path: Path, kind: str) -> Path:
    """Put a link to /dev/zero, a FIFO or a socket at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:  # a socket's whole path has at most 107 bytes
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    return path


@pytest.fixture
def deadline() -> Iterator[None]:
    """End a reader that waits or never ends."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader did not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_special_files_are_refused_by_name(kind, tmp_path, deadline):
    reads = {name: reader.read for name, reader in READERS.items() if not name.startswith("model/")} | FURTHER
    for name, read in reads.items():
        path = make_special(tmp_path / name, kind)
        with pytest.raises((UserError, BadShard, OSError), match=r"not a file|such device or address|cannot be read"):
            read(path)


@pytest.mark.parametrize("suffix", [".tar", ".jsonl", ".parquet", ".csv"])
def test_shards_that_are_no_files_fail_by_name(suffix, tmp_path, deadline):
    make_special(tmp_path / "pool" / f"0{suffix}", "device")
    recipe = make_recipe(tmp_path / "pool", pool={"key": "member" if suffix == ".tar" else "uid"})
    with pytest.raises((UserError, StageFailed), match=rf"0\{suffix}.*"):
        run_stages(recipe, tmp_path / "run", stages="pool")


def test_an_onnx_model_reads_no_file_outside_of_its_folder(tmp_path):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "c.bin").write_bytes(bytes(16))
    (folder / "m.onnx").write_bytes(small_onnx("c.bin"))
    read_onnx(folder / "m.onnx")
    for location in ("../c.bin", str(tmp_path / "c.bin")):
        (folder / "m.onnx").write_bytes(small_onnx(location))
        with pytest.raises(UserError):
            read_onnx(folder / "m.onnx")


# --- bombs ------------------------------------------------------------------------------------------------------------

CONFIG = PoolConfig(path=".", key="key")
LINKS = b'{"x": ["IMG@/src", ' + b"[]," * 2**19 + b"1]}"
BOMBS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "a.xml.bz2": (bz2.compress(PAGE + b"a" * 2**25), lambda path: list(dumps.read_texts(path))),
    "views.bz2": (
        bz2.compress(b"sw " + b"a" * 2**25),
        lambda path: titles.count_views(path, path.parent / "views", ["sw"], min_line_views={}),
    ),
    "names.json.gz": (gzip.compress(b"[]," * 2**20), titles.read_namespaces),
    "words.txt.gz": (gzip.compress(b"a\n" * 2**18), lambda path: list(lists.read_list(str(path)))),
    "wordnet.tab.gz": (gzip.compress(b"\ta" * 2**20), lambda path: next(lists.iter_lines(str(path)))),
    "a.jsonl.gz": (gzip.compress(b"{}\n" * 2**18), lambda path: JSONL.read(shard_of(path), CONFIG)),
    "b.jsonl.gz": (gzip.compress(b'{"a":[' + b"[]," * 2**20), lambda path: JSONL.read(shard_of(path), CONFIG)),
    "a.csv.gz": (gzip.compress(b"key,text\n" + b"a\n" * 2**18), lambda path: CSV.read(shard_of(path), CONFIG)),
    "a.tsv.gz": (gzip.compress(b"key\ttext\n" + b"\t" * 2**21), lambda path: TSV.read(shard_of(path), CONFIG)),
    "a.warc.wat.gz": (
        gzip.compress(b"WARC/1.0\r\nContent-Length: %d\r\n\r\n" % len(LINKS) + LINKS),
        lambda path: wat.extract_file(path.parent / "out", shard_of(path)),
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_compressed_bombs_are_refused_by_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_MEMORY_BYTES", 2**24)
    content, read = BOMBS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadShard, match=r"for safety|larger than"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"<mediawiki>" + b"<a>" * 2**12,
        b"<mediawiki " + b"a" * 2**14,
        PAGE + b"a" * 2**14,
        b"<mediawiki>" + b"".join(b"<namespace key='%d'/>" % number for number in range(2**10)),
    ],
    ids=["depth", "tag", "text", "namespaces"],
)
def test_plain_dumps_with_endless_parts_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "MAX_PAGE_BYTES", 2**12)
    (tmp_path / "a.xml").write_bytes(content)
    with pytest.raises(BadShard, match=r"a\.xml: a page is larger than in any dump"):
        list(dumps.read_texts(tmp_path / "a.xml"))


def test_a_stream_unpacks_to_a_thousand_times_its_size():
    packed = bz2.compress(b"a" * 2**25)
    with pytest.raises(BadShard, match="more than 1,000 times its size"):
        list(unpack.unpack(io.BytesIO(packed), "a.bz2"))


BIG = "a" * 2**18


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"key": [str(n) for n in range(400)], "text": [BIG] * 400}),
        pa.table({"key": ["a"], "text": pa.array([[BIG] * 400], pa.list_(pa.string()))}),
        pa.table({"key": ["a"] * 400, "image": [{"bytes": BIG.encode(), "path": "a.png"}] * 400}),
        pa.table({"key": pa.nulls(300_000, pa.string())}),
        pa.table({"key": ["a"], "text": pa.array([[0] * 10**7], pa.list_(pa.int8()))}),
        pa.table({"key": ["a"] * 400, "text": pa.array([BIG.encode()] * 400, pa.binary(len(BIG)))}),
    ],
    ids=["texts", "lists", "images", "rows", "values", "bytes of one size"],
)
@pytest.mark.parametrize("has_dictionary", [True, False])
def test_parquet_bombs_are_refused(table, has_dictionary, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_MEMORY_BYTES", 2**26)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=has_dictionary)
    with pytest.raises(BadShard, match="too large for safety"):
        PARQUET.read(shard_of(path), CONFIG)
    with pytest.raises(BadShard, match=r"a\.parquet: what it unpacks to is too large"):
        list(dumps.read_texts(path))
    with pytest.raises(UserError, match=r"pool\.deny_keys is .*cannot be read \(what it unpacks to is too large"):
        key_lists(None, [str(path)], tmp_path)


NULLS = pa.table({"key": ["a"], "text": pa.array([None], pa.list_(pa.string(), 10**8))})
PREFIXED = pa.table({"key": ["a"], "text": [[BIG + str(n) for n in range(1_000)]]})


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (pa.table({"key": [BIG[: 2**16]] * 5_000}), {"row_group_size": 100}),
        (NULLS, {}),
        (PREFIXED, {"use_dictionary": False, "column_encoding": {"text.list.element": "DELTA_BYTE_ARRAY"}}),
    ],
    ids=["row groups", "null lists", "prefixes"],
)
def test_all_column_chunks_count_together(table, options, tmp_path):
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", **options)
    with pytest.raises(BadShard, match="too large for safety"):
        PARQUET.read(shard_of(tmp_path / "a.parquet"), CONFIG)
    with pytest.raises(UserError, match="too large for safety"):
        key_lists(None, [str(tmp_path / "a.parquet")], tmp_path)


def test_rows_of_a_compressed_shard_are_counted(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"key": 1}\n' * 3_000_000))
    with pytest.raises(BadShard, match="too large for safety"):
        JSONL.read(shard_of(tmp_path / "a.jsonl.gz"), CONFIG)


def test_long_lists_and_prefixes_of_honest_files_are_read(tmp_path):
    """Sorted keys take less than a bit each, and a list is never held whole."""
    keys = pa.table({"key": [f"{n:09}" for n in range(3_000_000)]})
    options = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}
    pq.write_table(keys, tmp_path / "a.parquet", compression="zstd", **options)
    assert key_lists(None, [str(tmp_path / "a.parquet")], tmp_path)[0].num_keys == 3_000_000


def test_parquet_with_repeated_short_texts_is_read(tmp_path):
    table = pa.table({"key": [str(n) for n in range(10_000)], "text": ["a" * 100] * 10_000})
    pq.write_table(table, tmp_path / "a.parquet")
    check_parquet(tmp_path / "a.parquet", (tmp_path / "a.parquet").stat().st_size)
    found = texts_of(shard_of(tmp_path / "a.parquet"), PoolConfig(path="pool", key="key", texts=("text",)))
    assert found.text.to_pylist() == table["text"].to_pylist()


def black(size: tuple[int, int], kind: str = "PNG") -> bytes:
    return encode(Image.new("RGB", size), kind)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_small_files_of_many_pixels_are_bombs(kind, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS_OF_SMALL", {"JPEG": 10_000, "PNG": 10_000})
    monkeypatch.setattr(decoding, "MAX_PIXELS_OF_OTHER_SMALL", 10_000)
    assert decoding.decode(black((100, 100), kind)).shape == (100, 100, 3)
    with pytest.raises(decoding.BadImage, match=r"120 x 90 pixels in \d+ bytes, too many for a file") as error:
        decoding.decode(black((120, 90), kind))
    assert error.value.reason == decoding.BOMB


def test_icons_are_measured_before_they_are_opened():
    def icon(*pictures: bytes) -> bytes:  # its directory says 256 x 256
        content = struct.pack("<HHH", 0, 1, len(pictures))
        start = 6 + 16 * len(pictures)
        for picture in pictures:
            content += struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(picture), start)
            start += len(picture)
        return content + b"".join(pictures)

    header = black((1, 1))
    bomb = header[:16] + struct.pack(">II", 13_300, 13_300) + header[24:]
    bitmap = struct.pack("<IiiHHIIiiII", 40, 20_000, 40_000, 1, 1, 0, 0, 0, 0, 0, 0)
    for pictures in ([bomb], [bitmap], [black((64, 64)), bomb]):
        with pytest.raises(decoding.BadImage, match="too many for a file below 4 MiB"):
            decoding.decode(icon(*pictures))
    assert decoding.decode(icon(black((64, 64)))).shape == (64, 64, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "I;16", "P", "CMYK", "F", "I"])
def test_strips_give_the_same_pixels(mode, monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    deep = {"I;16": np.uint16, "F": np.float32, "I": np.int32}
    if mode in deep:
        image = Image.fromarray(levels[:, :, 0].astype(deep[mode]) * (257 if mode == "I;16" else 1))
    else:
        image = Image.fromarray(levels).convert(mode)
    image.format = "PNG"
    whole = decoding.pixels_of(image)
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 100)
    assert np.array_equal(decoding.pixels_of(image), whole)


# --- bad pairs and bad shards through the stages ----------------------------------------------------------------------

GOOD = "the old red house on the mountain by the sea"
LONG = (GOOD + " ") * 220_000  # 10 MB
# (key or None, text as bytes or None, what becomes of it)
ROWS: list[tuple[str | None, bytes | None, str]] = [
    ("good", GOOD.encode(), "matched"),
    ("nul", f"the old\0 red house {GOOD}\0".encode(), "matched"),
    ("only nul", b"\0\0 ", "no_text"),
    ("long", LONG.encode(), "matched"),
    ("surrogate", GOOD.encode() + b"\xed\xa0\xbd", "bad_pair"),  # half of a pair, as UTF-8 must not hold it
    ("empty", b"", "no_text"),
    ("null", None, "no_text"),
    (None, GOOD.encode(), "bad_pair"),
    ("good", GOOD.encode(), "duplicate"),
    ("no match", b"unmatched words everywhere without any listed thing", "no_match"),
]
RECORDS = [
    {"uid": key, "text": None if text is None else text.decode("utf-8", "surrogatepass")} for key, text, _ in ROWS
]


def as_parquet(folder: Path) -> Path:
    texts = pa.array([text for _, text, _ in ROWS], pa.binary()).view(pa.string())  # not checked, as careless writers
    return write_table(folder / "0.parquet", {"uid": [key for key, *_ in ROWS], "text": texts})


def as_lines(folder: Path) -> Path:
    return write_lines(folder / "0.jsonl", RECORDS)


def as_tar(folder: Path) -> Path:
    members = [member for number, record in enumerate(RECORDS) for member in sample(f"{number:05}", None, record)]
    return write_tar(folder / "0.tar", members)


def recipe_of(folder: Path, write: Callable[[Path], Path]):
    prefix = "json:" if write is as_tar else ""
    return make_recipe(folder, pool={"key": f"{prefix}uid", "texts": [f"{prefix}text"]}, balance={"tail_fraction": 1.0})


@pytest.mark.parametrize("write", [as_parquet, as_lines, as_tar])
def test_bad_pairs_of_every_format_drop_alone_and_are_counted(tmp_path, write):
    write(tmp_path / "pool")
    write_metadata(tmp_path / "run", LISTS)
    recipe = recipe_of(tmp_path / "pool", write)
    report = run_stages(recipe, tmp_path / "run")
    counts: Counter[str] = Counter()
    for row in report["match"]["texts"].values():
        counts.update(row)
    assert counts == Counter(what for *_, what in ROWS)
    total = report["curate"]["total"]
    assert (total["pairs_in"], total["pairs_out"]) == (len(ROWS), 3)
    reasons = [bad["reason"] for bad in report["match"]["bad"]]
    assert len(reasons) == 2
    assert any("uid is N" in reason or "uid is null" in reason for reason in reasons)
    shard = pool.list_pool(context(recipe, tmp_path / "run"))[0]
    kept = artifacts.read_table(tmp_path / "run/curate" / f"{shard.name}.parquet", schemas.CURATED)
    assert kept["text"].to_pylist() == [ROWS[0][1].decode(), ROWS[1][1].decode(), LONG]
    counts = dedup(recipe.pool, tmp_path / "dedup", executor=QUIET)
    assert (counts["no_identity"], counts["repeated_in_shard"]) == (1, 1)


def test_unreadable_pairs_are_named_with_the_reason_and_the_remedy(tmp_path, capsys):
    text = "the cat sat on the mountain by the water"
    write_tar(tmp_path / "pool/0.tar", [*sample("a", text), ("b.txt", "caf\xe9".encode("latin-1")), ("c.json", b"[]")])
    write_metadata(tmp_path / "run", LISTS)
    report = run_stages(make_recipe(tmp_path / "pool"), tmp_path / "run")["match"]
    assert report["texts"]["und"]["bad_pair"] == 2
    not_utf8, remedy = "its text is not UTF-8", "texts must be UTF-8 (convert Latin-1)"
    write_report(tmp_path / "run")
    page = (tmp_path / "run/report.html").read_text("utf-8")
    for said in (capsys.readouterr().err, page, key_to_text(inspect_key(tmp_path / "run", "b"))):
        assert not_utf8 in said
        assert remedy in said


# --- the child --------------------------------------------------------------------------------------------------------


def run_child() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", default=[""], help="how the names of the readers begin, such as pool/ or model/lid"
    )
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"), help="default: those of the fast test")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    os.fsync = lambda handle: None
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for name in [name for name in READERS if name.startswith(tuple(options.only))]:
        seeds = range(*options.seeds or (0, READERS[name].num_seeds))
        signal.alarm(60 + len(seeds) // 20)
        start = time.monotonic()
        number = read_all(name, options.folder, seeds)
        print(f"{name}: {number:,} files in {time.monotonic() - start:.1f} s")
    if "pool/" in options.only:
        for compare in COMPARED:
            compare(options.folder, range(*options.seeds or (0, 10_000)))


if __name__ == "__main__":
    run_child()
