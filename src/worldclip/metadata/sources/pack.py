"""Read a pack: the lists of a run in one file, with their sources, licences and digests.  Written by tools/pack.py.

A pack is a plain tar.  `pack.json` comes first and names every other member with its size and SHA-256.  A reader takes
no other member, and no member decides where it is written.  Compiled matchers are left out; they are compiled again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.contracts.schemas import METADATA
from worldclip.core.artifacts import digest, read_table, write_artifact
from worldclip.core.errors import BadShard, UserError
from worldclip.core.regular_file import open_regular
from worldclip.language.table import INSTALLED, Languages

FORMAT, VERSION = "worldclip.pack", 1
RECORD, LICENCES = "pack.json", "LICENCES.md"
MAX_RECORD_BYTES = 2**28  # 330 lists made from a thousand files each stay far below
_REMEDY = "download it again, or ask who packed it"


class PackedList(TypedDict):
    """The entry of one list in `pack.json`."""

    file: str
    size: int
    sha256: str
    entries: int
    digest: str
    by_source: dict[str, int]
    rules: dict[str, dict[str, int]]
    sources: list[dict[str, Any]]


class PackRecord(TypedDict, total=False):
    """`pack.json`."""

    format: str
    version: int
    made_with: dict[str, str]
    match: dict[str, Any]
    lists: dict[str, PackedList]
    pageviews: list[dict[str, Any]]
    languages: dict[str, dict[str, Any]]
    """Languages of the lists that language/table.csv lacks, as [languages.add] describes them."""
    licences: dict[str, Any]
    """file, size, sha256 of the page of licences."""
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """An opened pack."""

    path: Path
    record: PackRecord

    @property
    def lists(self) -> dict[str, PackedList]:
        return self.record["lists"]


def open_pack(path: Path, languages: Languages = INSTALLED) -> Pack:
    """Return a pack's record after checking it against the members; `read_packed` checks the lists themselves.

    Raises UserError if the file is not a whole pack.
    """
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            record = _read_record(path, tar, languages)
            _check_members(path, tar, record)
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not a whole pack of lists ({type(error).__name__}: {error}); {_REMEDY}") from error
    return Pack(path=path, record=record)


def _load_record(path: Path, tar: tarfile.TarFile) -> PackRecord:
    """Return the first member as JSON, unchecked."""
    first = tar.next()
    if first is None or first.name != RECORD or not first.isreg() or first.size > MAX_RECORD_BYTES:
        raise UserError(f"{path}: not a pack of lists, its first member is not {RECORD}; make one: worldclip pack RUN")
    try:
        record: PackRecord = json.loads(_read(tar, first))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {RECORD} in it is not JSON ({error}); {_REMEDY}") from error
    return record


def _read_record(path: Path, tar: tarfile.TarFile, languages: Languages) -> PackRecord:
    record = _load_record(path, tar)
    if record.get("format") != FORMAT:
        raise UserError(f"{path}: not a pack of lists, its format is {record.get('format')!r}, not {FORMAT!r}")
    if record["version"] > VERSION:
        raise UserError(f"{path}: packed by a newer worldclip (pack version {record['version']}); upgrade worldclip")
    if digest({key: value for key, value in record.items() if key != "digest"}) != record["digest"]:
        raise UserError(f"{path}: {RECORD} does not have the digest that it states; {_REMEDY}")
    if unknown := sorted(set(record["lists"]) - set(languages.by_code())):
        are_described = set(unknown) <= set(record.get("languages", {}))
        remedy = f"add them to the recipe ([languages.add.{unknown[0]}]), as {RECORD} in it says"
        remedy = remedy if are_described else "upgrade worldclip"
        raise UserError(f"{path}: lists of unknown languages {', '.join(unknown)}; {remedy}")
    missing = [key for key in ("match", "lists", "licences") if key not in record]
    missing += [f"match.{key}" for key in ("profile", "fold_case") if key not in record.get("match", {})]
    if not isinstance(record.get("pageviews"), list):
        missing.append("pageviews")
    for name, packed_list in record["lists"].items():
        keys = ("size", "sha256", "entries", "digest", "rules", "sources")
        missing += [f"{name}.{key}" for key in keys if key not in packed_list]
    if missing:
        raise UserError(f"{path}: {RECORD} lacks {', '.join(missing[:5])}; {_REMEDY}")
    return record


def read_added_languages(path: Path) -> dict[str, dict[str, Any]]:
    """Return the languages that a pack describes, as a recipe adds them, unchecked; none where it is no pack."""
    try:
        with open_regular(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            added = _load_record(path, tar).get("languages", {})
    except (OSError, tarfile.TarError, EOFError, ValueError, TypeError, AttributeError, UserError):
        return {}  # open_pack says what is wrong
    return added if isinstance(added, dict) else {}


def _check_members(path: Path, tar: tarfile.TarFile, record: PackRecord) -> None:
    """Raise UserError unless the members after the record are exactly those that it names, with their sizes."""
    sizes = {f"{name}.parquet": packed_list["size"] for name, packed_list in record["lists"].items()}
    sizes[LICENCES] = record["licences"]["size"]
    for member in itertools.islice(tar, 1, None):
        if not member.isreg() or member.name not in sizes:
            kind = "" if member.isreg() else ", not a plain file"
            raise UserError(f"{path}: member {member.name!r}{kind} is not named in {RECORD}; not unpacked for safety")
        if member.size != sizes.pop(member.name):
            raise UserError(f"{path}: {member.name} does not have the size that {RECORD} states; {_REMEDY}")
    if sizes:
        raise UserError(f"{path}: ends before {', '.join(sorted(sizes)[:5])}; {_REMEDY}")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular member
    data = file.read()
    if len(data) != member.size:
        raise UserError(f"{tar.name!r}: ends in the middle of {member.name}; {_REMEDY}")
    return data


def read_packed(pack: Pack, name: str, to: Path) -> pa.Table:
    """Write the list `name` of a pack to the file `to`, and read it.

    Raises BadShard if its bytes are not those that were packed, or are not a list of entries.
    """
    from worldclip.match.matcher.matcher import entries_digest

    packed_list = pack.lists[name]
    data = _read_checked(pack, f"{name}.parquet", packed_list["sha256"])
    write_artifact(to, lambda aside: aside.write_bytes(data))
    table = read_table(to, METADATA)
    entries = table["entry"]
    # Another program may have packed it: a list is numbered in order, each entry once, none null.
    is_list = (
        len(entries) == packed_list["entries"]
        and entries.null_count == 0
        and np.array_equal(table["entry_id"].to_numpy(), np.arange(len(entries)))
        and pc.count_distinct(entries).as_py() == len(entries)
        and entries_digest(entries) == packed_list["digest"]
    )
    if not is_list:
        raise BadShard(
            f"{pack.path}: {name}.parquet is not the list that {RECORD} describes (numbers, entries, digest); {_REMEDY}"
        )
    return table


def read_licences(pack: Pack) -> str:
    """Return the page of licences.  Raises UserError if it is not what was packed."""
    try:
        return _read_checked(pack, LICENCES, pack.record["licences"]["sha256"]).decode("utf-8")
    except BadShard as error:
        raise UserError(str(error)) from error


def _read_checked(pack: Pack, name: str, sha256: str) -> bytes:
    try:
        with open_regular(pack.path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            data = _read(tar, tar.getmember(name))
    except (tarfile.TarError, EOFError, KeyError, UserError) as error:
        raise BadShard(f"{pack.path}: {name} cannot be read ({error}); {_REMEDY}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadShard(f"{pack.path}: {name} does not have the SHA-256 that {RECORD} states; {_REMEDY}")
    return data
