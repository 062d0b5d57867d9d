"""WebDataset tars: samples of members with one stem, their identity, and where their image, .txt and .json stand.

A sample is a run of neighbours with one stem (the path up to the first dot of its last part); a member whose suffix
the run has already begins the next sample, a duplicate.  Members without a stem or suffix belong to no sample.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.errors import BadShard
from worldclip.execute import Shard
from worldclip.pool import tar

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "avif", "bmp", "tif", "tiff")
NO_MEMBER = -1


def suffix_code(suffix: str) -> int:
    """Up to 8 ASCII bytes as one number, the first one lowest; longer suffixes have code 0."""
    return int.from_bytes(suffix.encode(), "little") if len(suffix) <= 8 else 0


_IMAGE_CODES = np.array([suffix_code(suffix) for suffix in IMAGE_SUFFIXES], np.uint64)
_TXT, _JSON = np.uint64(suffix_code("txt")), np.uint64(suffix_code("json"))


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one tar, in order; member positions are rows of `members`, NO_MEMBER where there is none."""

    data: np.ndarray
    """(bytes,) uint8: the tar."""
    members: np.ndarray
    """(num_members, 6) int64: columns of tar.scan."""
    member_names: np.ndarray
    """(bytes,) uint8, between offsets int64."""
    name_offsets: np.ndarray
    stem_keys: pa.StringArray
    """Identity by member: `<folder of the tar>/<stem>`."""
    has_bad_name: np.ndarray
    """bool: the stem is not UTF-8; its key shows the bytes as escapes."""
    image: np.ndarray
    txt: np.ndarray
    json: np.ndarray
    num_ignored: int
    """Members that belong to no sample."""

    def __len__(self) -> int:
        return len(self.image)

    def content(self, member: int) -> bytes:
        start = self.members[member, tar.AT]
        return self.data[start : start + self.members[member, tar.SIZE]].tobytes()

    def member_name(self, member: int) -> str:
        start, end = self.name_offsets[member], self.name_offsets[member + 1]
        return self.member_names[start:end].tobytes().decode("utf-8", "backslashreplace")

    def iter_records(self) -> Iterator[dict[str, Any] | str | None]:
        """Each sample's .json as a dict; the reason where it cannot be read, None where there is none."""
        for member in self.json:
            yield None if member == NO_MEMBER else parse_record(self.content(member))


def parse_record(content: bytes) -> dict[str, Any] | str:
    """A JSON object, or in words why `content` is none."""
    try:
        record = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "its JSON is not UTF-8"
    except ValueError as error:
        return f"its JSON cannot be read: {error}"
    except RecursionError:
        return "its JSON is nested too deeply"
    return record if isinstance(record, dict) else f"its JSON is {type(record).__name__}, not an object"


def read_samples(shard: Shard, data: np.ndarray) -> Samples:
    """Group the members of the tar `data`.  Raises BadShard for a tar that is cut or damaged."""
    members = tar.scan(data)
    name_offsets = np.zeros(len(members) + 1, np.int64)
    np.cumsum(
        members[:, [tar.PREFIX_SIZE, tar.NAME_SIZE]].sum(1) + (members[:, tar.PREFIX_SIZE] > 0), out=name_offsets[1:]
    )
    names = np.empty(name_offsets[-1], np.uint8)
    _copy_names(data, members, name_offsets, names)
    groups = np.empty((len(members), 4), np.int64)
    stem_ends = np.empty(len(members), np.int64)
    num_samples, num_ignored = _group(names, name_offsets, _IMAGE_CODES, _TXT, _JSON, groups, stem_ends)
    first, image, txt, record = groups[:num_samples].T
    folder = PurePosixPath(shard.name).parent.as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    values, offsets = gather(names, name_offsets[first], stem_ends[first], prefix.encode())
    is_bad = find_bad_utf8(values, offsets)
    keys = large_strings(values, offsets, is_bad).cast(pa.string())
    if is_bad.any():
        shown = [
            values[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "backslashreplace")
            for row in np.flatnonzero(is_bad)
        ]
        keys = replace_where(keys, is_bad, shown)
    return Samples(data, members, names, name_offsets, keys, is_bad, image, txt, record, num_ignored)


def map_file(path: str) -> np.ndarray:
    """The file's bytes, memory-mapped.  Raises BadShard where it cannot be read."""
    try:
        with open(path, "rb") as file:
            if file.seek(0, 2) == 0:
                return np.empty(0, np.uint8)
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise BadShard(f"cannot be read ({error.strerror})") from error


def gather(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, prefix: bytes = b""
) -> tuple[np.ndarray, np.ndarray]:
    """(values uint8, offsets int64) of the slices [start, end) of `data`, each behind `prefix`: Arrow's layout."""
    before = np.frombuffer(prefix, np.uint8)
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts + len(before), out=offsets[1:])
    values = np.empty(offsets[-1], np.uint8)
    _fill(data, starts, before, offsets, values)
    return values, offsets


def find_bad_utf8(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """bool (num_texts,): which texts are not UTF-8 (surrogates are not)."""
    num_texts = len(offsets) - 1
    starts = offsets[:-1][offsets[:-1] < offsets[1:]]
    begins_inside = bool(((values[starts] & 0xC0) == 0x80).any())
    if not begins_inside and is_utf8(values.tobytes()):  # then no character crosses from one text to the next
        return np.zeros(num_texts, bool)
    return np.array([not is_utf8(values[a:b].tobytes()) for a, b in pairwise(offsets)], bool)


def is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def large_strings(values: np.ndarray, offsets: np.ndarray, is_null: np.ndarray) -> pa.Array:
    """large_string over the given buffers, null where asked."""
    validity = pa.array(~is_null).buffers()[1] if is_null.any() else None
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(values), validity)


def replace_where(array: pa.Array, mask: np.ndarray, values: Sequence[str]) -> pa.Array:
    return pc.replace_with_mask(array, pa.array(mask), pa.array(values, array.type))


@numba.njit(cache=True, nogil=True)
def _fill(data: np.ndarray, starts: np.ndarray, prefix: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> None:
    for row in range(len(starts)):
        at = offsets[row]
        for position in range(len(prefix)):
            values[at + position] = prefix[position]
        at += len(prefix)
        for position in range(offsets[row + 1] - at):
            values[at + position] = data[starts[row] + position]


@numba.njit(cache=True, nogil=True)
def _copy_names(data: np.ndarray, members: np.ndarray, offsets: np.ndarray, names: np.ndarray) -> None:
    for member in range(len(members)):
        at = offsets[member]
        prefix, prefix_size, name, name_size = (
            members[member, 0],
            members[member, 1],
            members[member, 2],
            members[member, 3],
        )
        for position in range(prefix_size):
            names[at + position] = data[prefix + position]
        if prefix_size:
            names[at + prefix_size] = 47  # "/"
            at += prefix_size + 1
        for position in range(name_size):
            names[at + position] = data[name + position]


@numba.njit(cache=True, nogil=True)
def _equal(names: np.ndarray, a: int, a_end: int, b: int, b_end: int) -> bool:
    if a_end - a != b_end - b:
        return False
    for offset in range(a_end - a):  # noqa: SIM110  numba compiles no generators
        if names[a + offset] != names[b + offset]:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _split(names: np.ndarray, start: int, end: int) -> tuple[int, np.uint64]:
    """(end of the stem, suffix as suffix_code); the stem ends at -1 where a name has no stem or no suffix."""
    base = start
    for position in range(start, end):
        if names[position] == 47:  # "/"
            base = position + 1
    dot = base
    while dot < end and names[dot] != 46:  # "."
        dot += 1
    if dot == base or dot >= end - 1:
        return -1, np.uint64(0)
    code = np.uint64(0)
    if end - dot - 1 <= 8:
        for position in range(end - 1, dot, -1):
            byte = names[position]
            if 65 <= byte <= 90:  # A to Z
                byte = byte + 32
            code = (code << np.uint64(8)) | np.uint64(byte)
    return dot, code


@numba.njit(cache=True, nogil=True)
def _group(
    names: np.ndarray,
    offsets: np.ndarray,
    image_codes: np.ndarray,
    txt_code: np.uint64,
    json_code: np.uint64,
    groups: np.ndarray,
    stem_ends: np.ndarray,
) -> tuple[int, int]:
    """Fill groups (num_samples, 4): first member, image, txt, json; and the end of each member's stem, -1 without one.

    Returns (number of samples, number of members in none).
    """
    num_samples, ignored, last = 0, 0, -1  # last: latest member of the open sample
    for member in range(len(offsets) - 1):
        start, end = offsets[member], offsets[member + 1]
        stem_end, code = _split(names, start, end)
        stem_ends[member] = stem_end
        if stem_end < 0:
            ignored += 1
            continue
        continues = last >= 0 and _equal(names, start, stem_end, offsets[last], stem_ends[last])
        other = groups[num_samples - 1, 0] if continues else member
        while other < member:
            if stem_ends[other] >= 0 and _equal(names, stem_end, end, stem_ends[other], offsets[other + 1]):
                continues = False
                break
            other += 1
        if not continues:
            groups[num_samples, 0] = member
            for column in range(1, 4):
                groups[num_samples, column] = -1
            num_samples += 1
        last = member
        sample = num_samples - 1
        for image_code in image_codes:
            if code == image_code and groups[sample, 1] < 0:
                groups[sample, 1] = member
        if code == txt_code and groups[sample, 2] < 0:
            groups[sample, 2] = member
        if code == json_code and groups[sample, 3] < 0:
            groups[sample, 3] = member
    return num_samples, ignored
