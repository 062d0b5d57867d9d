"""WebDataset tars: samples of members with one stem, and where the image, .txt and .json of each sample are.

A sample is a run of neighbouring members with one stem: the path up to the first dot of its last part.  A member whose
suffix the run already has begins the next sample, which is then a duplicate.  Members without a stem or a suffix belong
to no sample.  This is how webdataset groups members, except that webdataset raises an error for a repeated suffix.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip.core import image_names
from worldclip.core.arrow import binary_array
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.kernels import tar_headers
from worldclip.kernels.compiled import compiled
from worldclip.kernels.read_at import window_of_bytes
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import FileBytes, gather
from worldclip.pool.formats.base import PoolFormat, ShardPairs, Values
from worldclip.pool.formats.records import Record, pairs_of_records, parse_record
from worldclip.pool.texts import decode, readable

NO_MEMBER = -1
_FIRST_BYTES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"RIFF": ".webp",
}


def image_suffix(name: str, content: bytes) -> str:
    """Return the suffix of an image in a tar: its name's, else what its first bytes say."""
    suffix = PurePosixPath(name).suffix
    if suffix.lower() in image_names.SUFFIXES:
        return suffix
    if content[4:8] == b"ftyp":
        return ".heic" if image_names.is_heif(content) else ".avif"
    return next((kind for start, kind in _FIRST_BYTES.items() if content.startswith(start)), ".jpg")


def read(shard: Shard, config: PoolConfig) -> ShardPairs:
    """Return the samples of a tar.  Their .json are read only where the recipe asks for a field."""
    samples = read_samples(shard)
    has_txt = samples.txt != NO_MEMBER
    asks_for_field = config.key != "member" or config.lang is not None or bool(config.where)
    if config.texts:
        txt_places = [place for place, name in enumerate(config.texts) if name == "txt"]
        asks_for_field |= len(txt_places) < len(config.texts)
    else:
        txt_places = [0]
        asks_for_field |= bool((~has_txt & (samples.json != NO_MEMBER)).any())
    if asks_for_field:
        pairs = pairs_of_records(samples.read_records(), config, has_txt)
    else:
        pairs = ShardPairs(names=(), num_pairs=len(has_txt), keys=None, texts=())
    row = np.flatnonzero(samples.image != NO_MEMBER)
    image = samples.image[row]
    members = samples.members
    name_starts = members.name_offsets
    names, offsets, _ = gather(window_of_bytes(members.names), name_starts[image], name_starts[image + 1])
    images = {
        "row": row,
        "member": readable(binary_array(names, offsets)),
        "offset": members.starts[image],
        "size": members.sizes[image],
    }
    fields = list(pairs.names)
    if has_txt.any():
        fields.insert(0, "txt")
    return dataclasses.replace(
        pairs,
        names=fields,
        texts=[*(samples.texts()._replace(place=place) for place in txt_places), *pairs.texts],
        images=pa.table(images),
        stems=samples.stems,
        num_ignored=samples.num_ignored,
        unreadable=samples.problems,
    )


def read_rows(shard: Shard, config: PoolConfig, rows: np.ndarray) -> list[dict[str, Any]]:
    """Return the .json of these samples; an empty record where there is none or it cannot be read."""
    records = read_samples(shard).read_records(rows)
    return [record if isinstance(record, dict) else {} for record in records]


TAR = PoolFormat(name="tar", suffixes=(".tar",), read=read, read_rows=read_rows, is_table=False)


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one tar, in order."""

    file: FileBytes
    members: tar_headers.Members
    stems: pa.LargeBinaryArray
    """(num_samples,) key under `pool.key = "member"`: `<folder of the tar>/<stem>`."""
    problems: dict[int, str]
    """Why a sample is no pair, by its position: its name is not UTF-8."""
    image: np.ndarray
    """(num_samples,) int64, as txt and json: row of `members`, NO_MEMBER if the sample has none."""
    txt: np.ndarray
    json: np.ndarray
    num_ignored: int
    """Members that belong to no sample."""

    def contents(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (values uint8, offsets (n + 1,) int64) of the contents of members, empty for NO_MEMBER."""
        starts = self.members.starts[members]  # NO_MEMBER is -1 and takes the last row, at size 0
        return self.file.gather(starts, starts + np.where(members != NO_MEMBER, self.members.sizes[members], 0))

    def read_records(self, rows: np.ndarray | None = None) -> list[Record]:
        """Return the .json of each sample, or of those in `rows`."""
        members = self.json if rows is None else self.json[rows]
        values, offsets = self.contents(members)
        records: list[Record] = []
        for member, start, end in zip(members, offsets[:-1], offsets[1:], strict=True):
            record: Record = None
            if member != NO_MEMBER:
                record = parse_record(values[start:end].tobytes())
            records.append(record)
        return records

    def texts(self) -> Values:
        """Return the .txt of each sample that has one, without a Python object per text."""
        with_txt = np.flatnonzero(self.txt != NO_MEMBER)
        values, offsets = self.contents(self.txt[with_txt])
        return Values(with_txt, binary_array(values, offsets), np.zeros(len(self.txt), bool))


def read_samples(shard: Shard) -> Samples:
    """Group the members of a tar.  Raises BadShard for a tar that is cut or damaged."""
    file = FileBytes(shard.path)
    try:
        members = tar_headers.scan(file.window)
    except tar_headers.Unreadable as error:
        raise file.cut(error.at) from error
    except ValueError as error:
        raise BadShard(str(error)) from error
    names = members.names
    name_offsets = members.name_offsets
    groups = np.empty((len(members.starts), 4), np.int64)
    stem_ends = np.empty(len(members.starts), np.int64)
    num_samples, num_ignored = _group(names, name_offsets, _IMAGE_CODES, _TXT, _JSON, groups, stem_ends)
    first, image, txt, record = groups[:num_samples].T
    folder = PurePosixPath(shard.name).parent.as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    values, offsets, _ = gather(window_of_bytes(names), name_offsets[first], stem_ends[first], prefix.encode())
    stems = binary_array(values, offsets)
    is_bad = np.asarray(decode(stems).is_null())
    problems = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "no key: its name in the tar is not UTF-8")
    return Samples(file, members, stems, problems, image, txt, record, num_ignored)


# --- grouping members -------------------------------------------------------------------------------------------------


def _suffix_code(suffix: str) -> int:
    """Return up to 8 ASCII bytes as one number, the first byte lowest; longer suffixes have code 0."""
    return int.from_bytes(suffix.encode(), "little") if len(suffix) <= 8 else 0


_IMAGE_CODES = np.array([_suffix_code(suffix[1:]) for suffix in image_names.SUFFIXES], np.uint64)
_TXT = np.uint64(_suffix_code("txt"))
_JSON = np.uint64(_suffix_code("json"))
_SLASH, _DOT = ord("/"), ord(".")


@compiled
def _equal(names: np.ndarray, a: int, a_end: int, b: int, b_end: int) -> bool:
    if a_end - a != b_end - b:
        return False
    for offset in range(a_end - a):  # noqa: SIM110  numba compiles no generators
        if names[a + offset] != names[b + offset]:
            return False
    return True


@compiled
def _split(names: np.ndarray, start: int, end: int) -> tuple[int, np.uint64]:
    """Return (end of the stem, _suffix_code of the suffix in lower case); (-1, 0) without a stem or a suffix.

    Suffixes compare as one uint64 each, so the loop over members compares no strings.
    """
    base = start
    for position in range(start, end):
        if names[position] == _SLASH:
            base = position + 1
    dot = base
    while dot < end and names[dot] != _DOT:
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


@compiled
def _group(
    names: np.ndarray,
    offsets: np.ndarray,
    image_codes: np.ndarray,
    txt_code: np.uint64,
    json_code: np.uint64,
    groups: np.ndarray,
    stem_ends: np.ndarray,
) -> tuple[int, int]:
    """Fill groups (num_samples, 4) with first member, image, txt, json, and stem_ends (num_members,), -1 for no stem.

    Returns (number of samples, number of members that belong to no sample).
    """
    num_samples, ignored = 0, 0
    last = -1  # latest member of the open sample
    for member in range(len(offsets) - 1):
        start, end = offsets[member], offsets[member + 1]
        stem_end, code = _split(names, start, end)
        stem_ends[member] = stem_end
        if stem_end < 0:
            ignored += 1
            continue
        continues = last >= 0 and _equal(names, start, stem_end, offsets[last], stem_ends[last])
        # A suffix that the open sample already has begins the next sample.  A sample has few members, so this looks
        # at each of them again instead of keeping a set.
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
