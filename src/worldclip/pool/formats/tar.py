"""WebDataset tars: samples of members with one stem, their identity, and where their image, .txt and .json stand.

A sample is a run of neighbours with one stem (the path up to the first dot of its last part); a member whose suffix
the run has already begins the next sample, a duplicate.  Members without a stem or suffix belong to no sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numba
import numpy as np
import pyarrow as pa

from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.kernels import tar_headers as tar
from worldclip.pool.records import Record, keys_of_records, parse_record, texts_of_records
from worldclip.pool.texts import PoolTexts, find_bad_utf8, gather, large_strings, pool_texts, readable

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

    def records(self, limit: int | None = None) -> list[Record]:
        """The .json of each sample, or of the first `limit`."""
        return [None if member == NO_MEMBER else parse_record(self.content(member)) for member in self.json[:limit]]

    def read_txt(self, sample: int) -> bytes | None:
        member = self.txt[sample]
        return None if member == NO_MEMBER else self.content(member)

    def keys(self, key: str) -> tuple[pa.StringArray, np.ndarray, dict[int, str]]:
        """(identity of each sample, bool where it has one, why not by sample) for `pool.key`."""
        if key != "member":
            return keys_of_records(self.records(), key.removeprefix("json:"), self.stem_keys)
        reason = "its name in the tar is not UTF-8"
        return self.stem_keys, ~self.has_bad_name, dict.fromkeys(np.flatnonzero(self.has_bad_name).tolist(), reason)


def read_samples(shard: Shard, data: np.ndarray) -> Samples:
    """Group the members of the tar `data`.  Raises BadShard for a tar that is cut or damaged."""
    try:
        members = tar.scan(data)
    except ValueError as error:
        raise BadShard(str(error)) from error
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
    keys = readable(values, offsets, is_bad)
    return Samples(data, members, names, name_offsets, keys, is_bad, image, txt, record, num_ignored)


def read_texts(samples: Samples, key: str, places: tuple[str, ...], lang: str | None = None) -> PoolTexts:
    """Texts of all samples.

    places: `txt` or `json:FIELD`, empty for the first that a sample has.  lang: `json:FIELD` of their languages.
    """
    keys, has_key, problems = samples.keys(key)
    if key == "member" and lang is None and _needs_no_json(samples, places):
        return _texts_of_txt(samples, keys, has_key, problems)
    fields = tuple(None if place == "txt" else place.removeprefix("json:") for place in places)
    lang_field = None if lang is None else lang.removeprefix("json:")
    return texts_of_records(samples.records(), keys, has_key, problems, fields, samples.read_txt, lang_field)


def _needs_no_json(samples: Samples, places: tuple[str, ...]) -> bool:
    if places:
        return set(places) == {"txt"}
    return bool(((samples.txt != NO_MEMBER) | (samples.json == NO_MEMBER)).all())


def _texts_of_txt(samples: Samples, keys: pa.StringArray, has_key: np.ndarray, problems: dict[int, str]) -> PoolTexts:
    """One row a sample: its .txt, without a Python object per text."""
    has_txt = samples.txt != NO_MEMBER
    starts = samples.members[samples.txt, tar.AT]  # NO_MEMBER takes the last row: nothing of it
    ends = starts + np.where(has_txt, samples.members[samples.txt, tar.SIZE], 0)
    values, offsets = gather(samples.data, starts, ends)
    is_bad = find_bad_utf8(values, offsets)
    text = large_strings(values, offsets, is_bad | ~has_txt)
    details = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "its .txt is not UTF-8") | problems
    return pool_texts(keys, has_key, np.arange(len(samples)), text, details)


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
