from __future__ import annotations

import io
import os
import tarfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tar_oracle import with_checksum

from worldclip.kernels import tar_headers as tar
from worldclip.kernels.read_at import window_of_bytes, window_of_file

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


def scan(content: bytes) -> list[tuple[str, bytes]]:
    members = scan_bytes(content)
    return list(zip(names_of(members), contents_of(members, content), strict=True))


def names_of(members: tar.Members) -> list[str]:
    names = members.names.tobytes()
    return [names[start:end].decode() for start, end in pairwise(members.name_offsets)]


def contents_of(members: tar.Members, content: bytes) -> list[bytes]:
    return [content[start : start + size] for start, size in zip(members.starts, members.sizes, strict=True)]


PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0", min_codepoint=33), min_size=1, max_size=60)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
ASCII_NAMES = st.lists(st.text("abcdefgh.-_0123456789", min_size=1, max_size=60), min_size=1, max_size=4).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6), st.sampled_from(FORMATS[1:]), st.booleans())
def test_members_agree_with_tarfile(members, tar_format, has_float_mtime) -> None:
    content = pack(members, tar_format, mtime=1.5 if has_float_mtime else 0)
    expected = [(name.removeprefix("./"), data) for name, data in members]
    assert scan(content) == expected


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ASCII_NAMES, st.binary(max_size=700)), max_size=5))
def test_ustar_prefix_precedes_the_name(members) -> None:
    members = [(f"{'folder' * 15}/{name}"[:150].rstrip("/"), data) for name, data in members]
    assert scan(pack(members, tarfile.USTAR_FORMAT)) == members


def test_folders_links_and_global_headers_are_not_members() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600}) as packed:
        for name, kind in (("a", tarfile.DIRTYPE), ("b", tarfile.SYMTYPE), ("c", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "elsewhere" * 30
            packed.addfile(header)
        header = tarfile.TarInfo("./d.txt")
        header.size = 2
        packed.addfile(header, io.BytesIO(b"hi"))
    assert scan(file.getvalue()) == [("d.txt", b"hi")]


@pytest.mark.parametrize(("name", "expected"), [("./././a", "a"), ("./.", "."), ("././", "./"), (".//./a", "/./a")])
def test_every_leading_dot_is_left_out(name: str, expected: str) -> None:
    content = bytearray(pack([("b.txt", b"x"), ("_" * len(name), b"y")], tarfile.USTAR_FORMAT))
    content[1024 : 1024 + len(name)] = name.encode()  # tarfile changes some names
    content[1024:1536] = with_checksum(content[1024:1536])
    assert scan(bytes(content)) == [("b.txt", b"x"), (expected, b"y")]


def test_name_of_many_dots_takes_linear_time() -> None:
    """What takes quadratic time takes minutes."""
    content = pack([("./" * (2**19 - 1024) + "x", b"y")], tarfile.GNU_FORMAT)
    scan_bytes(pack([("a", b"")], tarfile.GNU_FORMAT))  # compile
    started_at = time.perf_counter()
    assert scan(content) == [("x", b"y")]
    assert time.perf_counter() - started_at < 10


def test_large_sizes_in_base_256_are_read() -> None:
    content = bytearray(pack([("a.txt", b"hello")], tarfile.USTAR_FORMAT))
    content[124:136] = b"\x80" + (5).to_bytes(11, "big")
    content[:512] = with_checksum(content[:512])
    assert scan(bytes(content)) == [("a.txt", b"hello")]


TWO = pack([("a.txt", b"x" * 700), ("b.txt", b"y" * 10)], tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not a tar at all", "cut off in the header at byte 0"),
        (b"not a tar at all" * 100, "wrong checksum"),
        (TWO[:100], "cut off in the header"),
        (TWO[:900], "extends past the end of the file"),
        (TWO[: 512 + 1024], "without the end mark"),
        (TWO[:1700], "cut off in the header at byte 1,536"),
        (TWO[:2050], "extends past the end"),
        (TWO[:2560], "without the end mark"),
        (TWO + TWO, "two tars were joined"),
        (TWO[:1540] + b"?" + TWO[1541:], "wrong checksum"),
    ],
)
def test_damaged_tar_is_described(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        scan(content)


def test_every_truncation_raises() -> None:
    end = len(TWO.rstrip(b"\0"))
    for length in range(0, end + 1, 97):
        with pytest.raises(ValueError):
            scan(TWO[:length])


def test_tar_of_photographs_agrees_with_tarfile(shared: Path) -> None:
    path = shared / "data/imagenet_samples/samples-000000.tar"
    with tarfile.open(path) as packed:
        expected = [(member.name, member.offset_data, member.size) for member in packed]
    fd = os.open(path, os.O_RDONLY)
    members = tar.scan(window_of_file(fd, path.stat().st_size))
    os.close(fd)
    starts, sizes = members.starts.tolist(), members.sizes.tolist()
    assert list(zip(names_of(members), starts, sizes, strict=True)) == expected
