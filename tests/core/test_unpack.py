from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Callable

import pytest

from worldclip.core.errors import BadShard
from worldclip.core.unpack import CHUNK_BYTES, Truncated, as_file, unpack, unpack_bytes

PACK: dict[str, Callable[[bytes], bytes]] = {"a.gz": gzip.compress, "a.bz2": bz2.compress}
SIZES = (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7)


def members(sizes: tuple[int, ...]) -> list[bytes]:
    """Return contents that compress well, so that a member ends in the middle of what was read."""
    return [bytes([97 + number]) * size for number, size in enumerate(sizes)]


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("first", SIZES)
@pytest.mark.parametrize("second", SIZES)
def test_members_of_any_size_are_unpacked_one_after_the_other(name: str, first: int, second: int) -> None:
    contents = members((first, second, 5))
    packed = b"".join(map(PACK[name], contents))
    chunks = list(unpack(io.BytesIO(packed), name))
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert b"".join(chunks) == b"".join(contents)


@pytest.mark.parametrize("name", PACK)
def test_last_member_cut_off_is_said(name: str) -> None:
    packed = b"".join(map(PACK[name], members((2 * CHUNK_BYTES, 2 * CHUNK_BYTES))))
    with pytest.raises(Truncated):
        unpack_bytes(packed[:-9], name)


def test_zeros_between_members_of_gzip_are_skipped() -> None:
    one, two = members((2 * CHUNK_BYTES, 3))
    packed = gzip.compress(one) + bytes(512) + gzip.compress(two) + bytes(512)
    assert unpack_bytes(packed, "a.gz") == one + two


def test_garbage_behind_the_last_member_is_damage() -> None:
    with pytest.raises(BadShard, match="damaged"):
        unpack_bytes(gzip.compress(b"a") + b"garbage", "a.gz")


def test_chunks_are_read_as_lines() -> None:
    assert list(as_file(iter([b"ab\n", b"c", b"d\n", b"e"]))) == [b"ab\n", b"cd\n", b"e"]
