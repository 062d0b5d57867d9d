"""Headers of tars as tarfile reads them; the hash table where hashes collide; the table of code points."""

import io
import random
import re
import tarfile
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core import caching

from unicode_builder import build_categories, build_table
from worldclip.core.arrow import byte_buffers
from worldclip.kernels import tar_headers as tar
from worldclip.kernels import unicode_table, utf8
from worldclip.kernels.byte_table import empty_slots, find_row, find_slot, hash_bytes, insert_rows, put_row
from worldclip.kernels.llvm import kernel
from worldclip.kernels.read_at import WINDOW_BYTES, gather, window_of_bytes, window_of_file
from worldclip.kernels.unicode_table import (
    FOLDS,
    MARK,
    NFC_NO,
    SIMILAR_TO_CJK,
    SPACE,
    SPACED,
    load_categories,
    load_table,
)

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def pack(members: list[tuple[str, bytes]], tar_format: int, **header_fields: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as packed:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            for key, value in header_fields.items():
                setattr(header, key, value)
            packed.addfile(header, io.BytesIO(content))
    return file.getvalue()


def scan_bytes(content: bytes) -> tar.Members:
    return tar.scan(window_of_bytes(np.frombuffer(content, np.uint8)))


def positions(members: tar.Members) -> list[tuple[bytes, int, int]]:
    """Return the name of each member, and where its content begins and how long it is."""
    names = members.names.tobytes()
    places = zip(pairwise(members.name_offsets), members.starts.tolist(), members.sizes.tolist(), strict=True)
    return [(names[start:end], at, size) for (start, end), at, size in places]


def scan(content: bytes) -> list[tuple[str, bytes]]:
    return [(name.decode(), content[at : at + size]) for name, at, size in positions(scan_bytes(content))]


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0", min_codepoint=33), min_size=1, max_size=60)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


def test_kernels_compile_where_no_folder_is_writable(monkeypatch):
    """As in a container whose files are read-only, for a user without a home."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    @kernel
    def double(number):
        return 2 * number

    assert double(21) == 42


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6), st.sampled_from(FORMATS[1:]), st.booleans())
def test_members_agree_with_tarfile(members, tar_format, has_float_mtime) -> None:
    content = pack(members, tar_format, mtime=1.5 if has_float_mtime else 0)
    assert scan(content) == [(re.sub(r"\A(?:\./)+(?=.)", "", name, flags=re.DOTALL), data) for name, data in members]


def test_every_leading_dot_is_left_out_in_linear_time() -> None:
    for name, expected in (("./././a", "a"), ("./.", "."), ("././", "./"), (".//./a", "/./a")):
        content = bytearray(pack([("b.txt", b"x"), ("_" * len(name), b"y")], tarfile.USTAR_FORMAT))
        content[1024 : 1024 + len(name)] = name.encode()  # tarfile changes some names
        content[1024:1536] = with_checksum(content[1024:1536])
        assert scan(bytes(content)) == [("b.txt", b"x"), (expected, b"y")]
    started_at = time.perf_counter()  # what takes quadratic time takes minutes
    assert scan(pack([("./" * (2**19 - 1024) + "x", b"y")], tarfile.GNU_FORMAT)) == [("x", b"y")]
    assert time.perf_counter() - started_at < 10


@pytest.mark.parametrize("size", [0, 9, 10, 190, 700])
def test_the_size_of_a_pax_record_is_read(size: int) -> None:
    content = b"x" * size
    packed = pack([("a.txt", content)], tarfile.PAX_FORMAT, pax_headers={"size": str(size)})
    assert scan(packed) == [("a.txt", content)]


def test_sparse_members_are_refused() -> None:
    content = bytearray(pack([("a.txt", b"hello")], tarfile.GNU_FORMAT))
    content[156] = ord("S")
    content[:512] = with_checksum(content[:512])
    for sparse in (bytes(content), pack([("a", b"x")], tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"})):
        with pytest.raises(ValueError, match="is stored as a sparse file; pack the tar without --sparse"):
            scan(sparse)


TWO = pack([("a.txt", b"x" * 700), ("b.txt", b"y" * 10)], tarfile.USTAR_FORMAT)


def test_the_size_of_a_pax_record_is_that_of_one_member() -> None:
    packed = pack([("0.txt", b"z" * 9)], tarfile.PAX_FORMAT, pax_headers={"size": "9"})
    assert scan(packed[: 4 * 512] + TWO) == [("0.txt", b"z" * 9), ("a.txt", b"x" * 700), ("b.txt", b"y" * 10)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not a tar at all" * 100, "wrong checksum"),
        (TWO[:900], "extends past the end of the file"),
        (TWO[:1700], "cut off in the header at byte 1,536"),
        (TWO[:2560], "without the end mark"),
        (TWO + TWO, "two tars were joined"),
        (TWO[:1540] + b"?" + TWO[1541:], "wrong checksum"),
    ],
)
def test_damaged_tar_is_described(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scan(content)
    for length in range(0, len(TWO.rstrip(b"\0")) + 1, 97):
        with pytest.raises(ValueError):
            scan(TWO[:length])


def test_slices_longer_than_the_window_are_read_whole(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * WINDOW_BYTES + 7)
    (tmp_path / "file").write_bytes(content)
    slices = [content[5:-1], content[:9]]
    offsets = np.array([0, 2 + len(slices[0])])
    values = np.zeros(4 + sum(map(len, slices)), np.uint8)
    with open(tmp_path / "file", "rb") as file:
        window = window_of_file(file.fileno(), len(content))
        starts, ends = np.array([5, 0]), np.array([len(content) - 1, 9])
        assert gather(window, starts, ends, np.frombuffer(b"k:", np.uint8), offsets, values) == -1
    assert values.tobytes() == b"k:" + slices[0] + b"k:" + slices[1]


# --- made-up tars -----------------------------------------------------------------------------------------------------

HEADER_NAMES = [
    b"0001.jpg",
    b"./a/b.txt",
    b"a" * 99 + b"/",
    b"dir/",
    b"\xff\xfe.json",
    "ü.jpg".encode(),
    b"",
    b"a.b.c",
    b"/x.txt",
]
KINDS = b"\0" + b"0" * 12 + b"7SLKxgX12345VMN"
RECORDS = [
    (b"path", [b"pax/long.jpg", b"", b"./p.txt", b"tail//", b"nul\0in.txt", b"\xff.txt"]),
    (b"size", [b"3", b"700", b"0", b"", b"-1", b"99999999999", b"9" * 30, b"1_0", b" 5", b"0x3"]),
    (b"hdrcharset", [b"BINARY", b"ISO-IR 10646 2000 UTF-8"]),
    (b"GNU.sparse.major", [b"1"]),
    (b"comment", [b"x" * 600, b"a=b", b""]),
    (b"mtime", [b"1.5"]),
    (b"pathology", [b"1"]),
]


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def header(name: bytes, size: bytes, kind: int, magic: bytes = b"ustar\x0000", prefix: bytes = b"") -> bytes:
    block = bytearray(512)
    block[:100] = name[:100].ljust(100, b"\0")
    block[100:108] = b"0000644\0"
    block[124:136] = size[:12].ljust(12, b"\0")
    block[136:148] = b"00000000000\0"
    block[156] = kind
    block[257:265] = magic
    block[345:500] = prefix[:155].ljust(155, b"\0")
    return with_checksum(block)


def make_tar(rng: random.Random) -> bytes:
    """Return a tar of a few headers: most are right, some have bytes changed, with and without a new checksum."""
    parts = []
    for _ in range(rng.randint(1, 5)):
        kind = rng.choice(KINDS)
        content = rng.randbytes(rng.choice((0, 3, 512, 700)))
        if kind in b"xgX":
            content = b"".join(
                record(key, rng.choice(values)) for key, values in rng.sample(RECORDS, rng.randint(1, 3))
            )
        if kind in b"LK":
            content = rng.choice((b"long/" * 30 + b".txt\0", b"short.txt\0", b"no end.txt", b""))
        stated = len(content) if rng.random() < 0.9 else rng.choice((0, 1, 511, 513, 1 << 33))
        size = f"{stated:011o}\0".encode()
        if rng.random() < 0.1:
            size = b"\x80" + stated.to_bytes(11, "big")
        if rng.random() < 0.05:
            size = rng.choice(
                (b"", b"-0000000001", b"+1", b" 7 ", b"12 3", b"\xff" * 12, b"0o17", b"9", b"1_0", b"\x80" * 12)
            )
        magic = rng.choice((b"ustar\x0000", b"ustar\x0000", b"ustar  \0", bytes(8)))
        prefix = rng.choice((b"", b"", b"pre/fix")) if magic == b"ustar\x0000" else b""
        block = bytearray(header(rng.choice(HEADER_NAMES), size, kind, magic, prefix))
        if rng.random() < 0.15:
            block[rng.choice((rng.randrange(512), rng.randrange(124, 136), 156))] = rng.randrange(256)
            if rng.random() < 0.8:
                block = bytearray(with_checksum(block))
        parts.append(bytes(block))
        parts.append(content + (b"\0" if rng.random() < 0.98 else b"?") * (-len(content) % 512))
    tar = b"".join(parts) + bytes(1024)
    return tar[: rng.randrange(len(tar))] if rng.random() < 0.03 else tar


def plain_name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    while len(encoded) > 2 and encoded.startswith(b"./"):
        encoded = encoded[2:]
    return encoded


def read_as_tarfile(content: bytes) -> list[tuple[bytes, int, int]] | None:
    """Return (name, start, size) of the regular members."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8", errors="surrogateescape") as packed:
            members = [member for member in packed.getmembers() if member.isreg()]
    except Exception:  # noqa: BLE001  tarfile refuses damaged headers with errors of many types
        return None
    return [(plain_name(member.name), member.offset_data, member.size) for member in members]


def uses_prefix_beside_posix(content: bytes) -> bool:
    """Return whether tarfile takes the times of a GNU header for a prefix: it ignores the magic."""
    return any(
        content[at + 345] and not (content[at + 257] == 117 and content[at + 262] == 0)
        for at in range(0, len(content) - 511, 512)
    )


def check(content: bytes) -> bool:
    """Assert that a tar is refused or read as tarfile reads it; return whether it is read."""
    try:
        members = scan_bytes(content)
    except ValueError:
        return False
    assert ((members.starts >= 0) & (members.sizes >= 0)).all()
    assert (members.starts + members.sizes <= len(content)).all()
    assert members.name_offsets[-1] == len(members.names)
    ours = positions(members)
    theirs = read_as_tarfile(content)
    if theirs is not None and not uses_prefix_beside_posix(content):
        # tarfile ends without a word at a header whose mode or owner is no number, so its list may be shorter.
        assert len(theirs) <= len(ours)
        assert ours[: len(theirs)] == theirs
    return True


def test_made_up_tars_are_refused_or_read_as_tarfile_reads_them() -> None:
    assert sum(check(make_tar(random.Random(seed))) for seed in range(3000)) > 600


# tables


@kernel
def find_all(data, starts, ends, slots, key):
    """Insert all strings under one hash; returns the row that each is then found at."""
    rows = np.empty(len(starts), np.int64)
    for row in range(len(starts)):
        put_row(slots, find_slot(data, starts[row], ends[row], key, data, starts, ends, slots), key, row)
    for row in range(len(starts)):
        rows[row] = find_row(data, starts[row], ends[row], key, data, starts, ends, slots)
    return rows


@kernel
def hashes_of(data, starts, ends):
    return np.array([hash_bytes(data, starts[row], ends[row]) for row in range(len(starts))])


def test_strings_with_equal_hashes_are_told_apart():
    data, offsets = byte_buffers(pa.array(["a", "b", "ab", ""], pa.large_string()))
    slots = empty_slots(4)
    assert find_all(data, offsets[:-1], offsets[1:], slots, np.uint64(2**64 - 1)).tolist() == [0, 1, 2, 3]
    assert slots[:3].all()  # the last slot comes first, then the table begins anew
    assert slots[-1]


def test_hash_depends_on_every_byte_and_on_the_length_and_the_first_of_equal_strings_stays():
    texts = [b"x" * n for n in range(40)] + [b"x" * n + b"y" + b"x" * (39 - n) for n in range(40)]
    data, offsets = byte_buffers(pa.array(texts, pa.large_binary()))
    assert len(set(hashes_of(data, offsets[:-1], offsets[1:]).tolist())) == len(texts)
    data, offsets = byte_buffers(pa.array(["a", "b", "a", "a"], pa.large_string()))
    assert insert_rows(data, offsets[:-1], offsets[1:], empty_slots(4)) == 2


has_unicode_of_the_table = pytest.mark.skipif(
    unicodedata.unidata_version != unicode_table.UNICODE_VERSION,
    reason=f"this Python has Unicode {unicodedata.unidata_version}, the table is of {unicode_table.UNICODE_VERSION}",
)


@has_unicode_of_the_table
def test_committed_table_agrees_with_unicodedata():
    for name, built, stored in zip(load_table()._fields, build_table(), load_table(), strict=True):
        assert built.dtype == stored.dtype, name
        np.testing.assert_array_equal(built, stored, err_msg=name)
    np.testing.assert_array_equal(build_categories(), load_categories())


def test_characters_compose_and_fold_alike_on_this_python():
    """Matches do not depend on the Python version, because these properties are frozen for assigned characters."""
    table = load_table()
    folds = {
        int(c): "".join(map(chr, table.folded[table.fold_index[k] : table.fold_index[k + 1]]))
        for k, c in enumerate(table.fold_from)
    }
    for c in np.flatnonzero(table.classes).tolist():
        assert (unicodedata.normalize("NFC", chr(c)) != chr(c)) == bool(table.classes[c] & NFC_NO), hex(c)
        assert chr(c).casefold() == folds.get(c, chr(c)), hex(c)
        assert unicodedata.combining(chr(c)) == table.classes[c] >> unicode_table.COMBINING_SHIFT, hex(c)


def test_buffers_of_kernels_hold_the_longest_expansions():
    """Folding writes at most 3 bytes per byte, decomposing at most 2 code points per byte."""
    for c in [*load_table().decompose_from.tolist(), *load_table().fold_from.tolist(), 0xAC01]:
        size, folded = len(chr(c).encode()), chr(c).casefold()
        assert len(folded.encode()) <= 3 * size
        assert len(unicodedata.normalize("NFD", chr(c))) <= 1.5 * size
        assert len(unicodedata.normalize("NFD", folded)) <= 2 * size


@njit
def encode_all(points, out):
    end = 0
    for point in points:
        end = utf8.encode(point, out, end)
    return end


def test_code_points_are_written_as_python_writes_them():
    points = np.delete(np.arange(0x110000), np.arange(0xD800, 0xE000))
    out = np.empty(4 * len(points), np.uint8)
    end = encode_all(points, out)
    assert out[:end].tobytes().decode() == "".join(map(chr, points))


def test_class_of_a_character():
    expected = {
        SPACED: "a7ёب\u200d가", MARK: "่", SPACED | MARK: "\u093f", SPACE: " \u00a0\u3000",
        0: "-_'ーネ猫ก\x1c\u0378\U0001f408",
    }  # fmt: skip
    classes = load_table().classes
    for kind, characters in expected.items():
        assert {classes[ord(x)] & (SPACED | MARK | SPACE) for x in characters} == {kind}
    similar = [x for x in "猫ก『～—-`@カねー0a ·¿" if classes[ord(x)] & SIMILAR_TO_CJK]
    assert similar == list("猫ก『～—-`@")
    assert [x for x in "AaßǅπΣ1" if classes[ord(x)] & FOLDS] == list("AßǅΣ")
