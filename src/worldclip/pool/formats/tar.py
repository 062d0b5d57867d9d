"""WebDataset tars: samples of members with one stem, and where the image, .txt and .json of each sample are.

A sample is a run of neighbouring members with one stem: the path up to the first dot of its last part.  A member whose
suffix the run already has begins the next sample, which is then a duplicate.  Members without a stem or a suffix belong
to no sample.  This is how webdataset groups members, except that webdataset raises an error for a repeated suffix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from worldclip.core import image_names
from worldclip.core.errors import BadShard
from worldclip.core.execute import Report, Shard
from worldclip.kernels import tar_headers
from worldclip.kernels.compiled import compiled
from worldclip.kernels.read_at import window_of_bytes
from worldclip.pool import records, texts
from worldclip.pool.columns import NO_PAIR, check_fields
from worldclip.pool.config import PoolConfig, bare
from worldclip.pool.files import FileBytes, gather
from worldclip.pool.formats.base import PoolFormat
from worldclip.pool.texts import PairKeys, PoolTexts

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


class TarFormat(PoolFormat):
    name = "tar"
    suffixes = (".tar",)
    is_table = False

    def holds_images(self, shard: Shard, config: PoolConfig) -> bool:
        return True

    def read_texts(self, shard: Shard, config: PoolConfig) -> PoolTexts:
        samples = read_samples(shard)
        keys = samples.keys(config.key)
        if config.key == "member" and config.lang is None and _needs_no_json(samples, config.texts):
            return _texts_of_txt(samples, keys)
        fields = tuple(None if place == "txt" else bare(place) for place in config.texts)
        lang = None if config.lang is None else bare(config.lang)
        return records.texts_of_records(samples.read_records(), keys, fields, samples.read_txt, lang)

    def read_keys(self, shard: Shard, config: PoolConfig) -> PairKeys:
        return read_samples(shard).keys(config.key)

    def read_records(self, shard: Shard, config: PoolConfig) -> records.KeyedRecords:
        samples = read_samples(shard)
        return samples.keys(config.key).keys.to_pylist(), samples.read_records()

    def field_names(self, shard: Shard, config: PoolConfig) -> list[str]:
        return read_samples(shard).field_names()

    def check_columns(self, shard: Shard, config: PoolConfig, *, is_key_only: bool = False) -> None:
        if is_key_only and config.key == "member":
            return  # a stem needs no look into the tar
        samples = read_samples(shard)
        if not len(samples):
            raise BadShard(NO_PAIR)
        has_txt = bool((samples.txt != NO_MEMBER).any())
        check_fields(samples.field_names(), config, is_key_only=is_key_only, has_txt=has_txt)

    def index_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Report]:
        return _index(read_samples(shard), config)

    def read_images(self, shard: Shard, config: PoolConfig) -> tuple[pa.Table, Iterator[bytes]]:
        samples = read_samples(shard)
        index, _ = _index(samples, config)
        places = zip(index["offset"].to_pylist(), index["size"].to_pylist(), strict=True)
        return index, (samples.file.read(offset, size) for offset, size in places)


TAR = TarFormat()


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one tar, in order."""

    file: FileBytes
    members: tar_headers.Members
    stem_keys: pa.LargeStringArray
    """(num_samples,) key under `pool.key = "member"`: `<folder of the tar>/<stem>`."""
    problems: dict[int, str]
    """Why a sample is no pair, by its position: its stem is not UTF-8 (the key shows escapes), a member is sparse."""
    image: np.ndarray
    """(num_samples,) int64, as txt and json: row of `members`, NO_MEMBER if the sample has none."""
    txt: np.ndarray
    json: np.ndarray
    num_ignored: int
    """Members that belong to no sample."""

    def __len__(self) -> int:
        return len(self.image)

    def content(self, member: int) -> bytes:
        return self.file.read(int(self.members.starts[member]), int(self.members.sizes[member]))

    def contents(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (values uint8, offsets (n + 1,) int64) of the contents of members, empty for NO_MEMBER."""
        starts = self.members.starts[members]  # NO_MEMBER is -1 and takes the last row, at size 0
        return self.file.gather(starts, starts + np.where(members != NO_MEMBER, self.members.sizes[members], 0))

    def member_name(self, member: int) -> str:
        start, end = self.members.name_offsets[member : member + 2]
        return self.members.names[start:end].tobytes().decode("utf-8", "backslashreplace")

    def read_records(self, limit: int | None = None) -> list[records.Record]:
        """Return the .json of each sample, or of the first `limit`."""
        members = self.json[:limit]
        values, offsets = self.contents(members)
        return [
            None if member == NO_MEMBER else records.parse_record(values[start:end].tobytes())
            for member, start, end in zip(members, offsets[:-1], offsets[1:], strict=True)
        ]

    def field_names(self) -> list[str]:
        """Return the fields of the first records."""
        return records.field_names(self.read_records(records.NUM_PROBED))

    def read_txt(self, sample: int) -> bytes | None:
        member = self.txt[sample]
        return None if member == NO_MEMBER else self.content(member)

    def keys(self, key: str) -> PairKeys:
        """Return the identity of each sample; key: `pool.key`."""
        has_key = np.ones(len(self), bool)
        has_key[list(self.problems)] = False
        if key == "member":
            return PairKeys(self.stem_keys, has_key, self.problems)
        keys = records.keys_of_records(self.read_records(), bare(key), self.stem_keys)
        return PairKeys(keys.keys, keys.has_key & has_key, dict(sorted((keys.problems | self.problems).items())))


def read_samples(shard: Shard) -> Samples:
    """Group the members of a tar.  Raises BadShard for a tar that is cut or damaged."""
    file = FileBytes(shard.path)
    try:
        members = tar_headers.scan(file.window)
    except tar_headers.Unreadable as error:
        raise file.cut(error.at) from error
    except ValueError as error:
        raise BadShard(str(error)) from error
    names, name_offsets = members.names, members.name_offsets
    groups = np.empty((len(members.starts), 4), np.int64)
    stem_ends = np.empty(len(members.starts), np.int64)
    num_samples, num_ignored = _group(names, name_offsets, _IMAGE_CODES, _TXT, _JSON, groups, stem_ends)
    first, image, txt, record = groups[:num_samples].T
    folder = PurePosixPath(shard.name).parent.as_posix()
    prefix = "" if folder == "." else f"{folder}/"
    values, offsets, _ = gather(window_of_bytes(names), name_offsets[first], stem_ends[first], prefix.encode())
    is_bad = texts.find_bad_utf8(values, offsets)
    keys = texts.readable(values, offsets, is_bad)
    problems = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "no key: its name in the tar is not UTF-8")
    return Samples(file, members, keys, problems, image, txt, record, num_ignored)


def _index(samples: Samples, config: PoolConfig) -> tuple[pa.Table, Report]:
    keys, has_key, _ = samples.keys(config.key)
    is_indexed = has_key & ~texts.find_duplicates(keys, has_key) & (samples.image != NO_MEMBER)
    chosen = np.flatnonzero(is_indexed)
    members = samples.image[chosen]
    index = {
        "key": keys.take(pa.array(chosen)),
        "member": pa.array([samples.member_name(member) for member in members], pa.string()),
        "offset": samples.members.starts[members],
        "size": samples.members.sizes[members],
    }
    counts = {"pairs": len(samples), "images": len(chosen), "ignored_members": samples.num_ignored}
    counts["left_out"] = 0
    return pa.table(index), counts


def _needs_no_json(samples: Samples, places: tuple[str, ...]) -> bool:
    if places:
        return set(places) == {"txt"}
    return bool(((samples.txt != NO_MEMBER) | (samples.json == NO_MEMBER)).all())


def _texts_of_txt(samples: Samples, keys: PairKeys) -> PoolTexts:
    """Return one text per sample, its .txt, without a Python object per text."""
    has_txt = samples.txt != NO_MEMBER
    values, offsets = samples.contents(samples.txt)
    is_bad = texts.find_bad_utf8(values, offsets)
    text = texts.large_strings(values, offsets, is_bad | ~has_txt)
    details = dict.fromkeys(np.flatnonzero(is_bad).tolist(), "its .txt is not UTF-8") | keys.problems
    return texts.pool_texts(keys, np.arange(len(samples)), text, details)


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
