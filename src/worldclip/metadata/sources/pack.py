"""All lists of a run in one file, to give away: entries, where they come from, licences, digests; and back.

A pack is a plain tar.  `pack.json` comes first and names every other member with its size and SHA-256; a reader takes
nothing else, and no member chooses where it is written.  Compiled matchers are left out: they are made on arrival.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core.artifacts import METADATA, digest, read_table, require_manifest, versions, write_artifact
from worldclip.core.errors import BadShard, UserError
from worldclip.language import table as languages

FORMAT, VERSION = "worldclip.pack", 1
RECORD, LICENCES = "pack.json", "LICENCES.md"
MAX_RECORD_BYTES = 2**28  # of pack.json: 330 lists made from a thousand files each stay far below
STAGE, MERGED = "metadata", "merged"
PARTS = ("match", "lists", "pageviews", "licences")
PARTS_OF_LIST = ("size", "sha256", "entries", "digest", "rules", "sources")
DAMAGED = "get it again, or ask whoever packed it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A pack's own record."""

    path: Path
    record: dict[str, Any]

    @property
    def lists(self) -> dict[str, dict[str, Any]]:
        """For each language: file, size, sha256, entries, digest, by_source, rules, sources."""
        found: dict[str, dict[str, Any]] = self.record["lists"]
        return found


# --- making one -------------------------------------------------------------------------------------------------------


def pack(run_dir: Path, out: Path) -> dict[str, Any]:
    """Write the lists of a finished metadata stage to `out`; the same lists give the same bytes.

    Returns {file, lists, entries, bytes, licences: {licence: lists}}.  Raises UserError where the stage is not finished
    or a list changed since.
    """
    manifest = require_manifest(run_dir, STAGE)
    members = {name: run_dir / STAGE / f"{name}.parquet" for name in sorted(manifest["counts"]) if name != MERGED}
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "made_with": versions(),
        "match": manifest["config"]["match"],
        "lists": {name: _describe(name, path, manifest) for name, path in members.items()},
        "pageviews": manifest["pageviews"],
    }
    licences = _licences(record["lists"])
    text = _licence_page(record["lists"], licences).encode()
    record["licences"] = {"file": LICENCES, "size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    record["digest"] = digest(record)
    head = (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in ((RECORD, head), (LICENCES, text)):
                tar.addfile(_member(name, len(data)), io.BytesIO(data))
            for name, path in members.items():
                with open(path, "rb") as file:
                    tar.addfile(_member(f"{name}.parquet", record["lists"][name]["size"]), file)

    write_artifact(out, write)
    return {
        "file": str(out),
        "lists": len(members),
        "entries": sum(found["entries"] for found in record["lists"].values()),
        "bytes": out.stat().st_size,
        "licences": licences,
    }


def _describe(name: str, path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    from worldclip.match.matcher.matcher import entries_digest

    found = entries_digest(read_table(path, METADATA, ["entry"])["entry"])
    if found != manifest["digests"][name]:
        raise UserError(f"{path} changed since it was written; {how_to_redo(path.parent)}")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": f"{name}.parquet",
        "size": path.stat().st_size,
        "sha256": sha256,
        "entries": manifest["counts"][name],
        "digest": found,
        "by_source": {source: counts["kept"] for source, counts in manifest["rules"][name].items()},
        "rules": manifest["rules"][name],
        "sources": manifest["sources"][name],
    }


def how_to_redo(folder: Path) -> str:
    """What makes the lists and matchers of RUN/metadata anew; what was counted stays."""
    removed = f"remove {folder / 'manifest.json'}, {folder / 'done/entries'} and {folder / 'done/matchers'}"
    return f"{removed}, then run: worldclip metadata {folder.parent}"


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # of no time and no owner
    member.size = size
    return member


def _licences(lists: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Licence -> the lists that have a source under it."""
    found: dict[str, set[str]] = {}
    for name, of_list in lists.items():
        for source in of_list["sources"]:
            if "licence" in source:
                found.setdefault(source["licence"], set()).add(name)
    return {licence: sorted(names) for licence, names in sorted(found.items())}


def _licence_page(lists: Mapping[str, Mapping[str, Any]], licences: Mapping[str, Iterable[str]]) -> str:
    """What a person must know to pass the lists on."""
    lines = ["# Licences of these lists of entries", "", "Each list is under the licences of all its sources.", ""]
    lines += [f"- **{licence}**: {', '.join(names)}" for licence, names in licences.items()]
    lines += ["", "| list | entries | source | from | licence |", "|---|---:|---|---|---|"]
    for name, of_list in lists.items():
        for source in of_list["sources"]:
            origin = source.get("name") or source.get("file") or source.get("package") or ""
            row = (name, f"{of_list['entries']:,}", source["source"], origin, source.get("licence", ""))
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |")
    return "\n".join([*lines, ""])


# --- reading one ------------------------------------------------------------------------------------------------------


def open_pack(path: Path) -> Pack:
    """A pack's record, once its members are what it says (lists themselves: read_packed).  Raises UserError if not."""
    try:
        with tarfile.open(path, "r:") as tar:
            return Pack(path=path, record=_check(path, tar))
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no whole pack of lists ({type(error).__name__}: {error}); {DAMAGED}") from error


def _check(path: Path, tar: tarfile.TarFile) -> dict[str, Any]:
    first = tar.next()
    if first is None or first.name != RECORD or not first.isreg() or first.size > MAX_RECORD_BYTES:
        raise UserError(f"{path} is no pack of lists: its first member is not {RECORD}; worldclip pack RUN makes one")
    record: dict[str, Any] = json.loads(_read(tar, first))
    if record.get("format") != FORMAT:
        raise UserError(f"{path} is no pack of lists: its format is {record.get('format')!r}, expected {FORMAT!r}")
    if record["version"] > VERSION:
        raise UserError(f"{path} was packed by a newer worldclip (pack version {record['version']}); upgrade")
    if digest({key: value for key, value in record.items() if key != "digest"}) != record["digest"]:
        raise UserError(f"{path}: {RECORD} does not have the digest that it states; {DAMAGED}")
    codes = {language.code for language in languages.all_languages()}
    if unknown := sorted(set(record["lists"]) - codes):
        raise UserError(f"{path} has lists of no language of the table: {', '.join(unknown)}; upgrade worldclip")
    lacking = [key for key in PARTS if key not in record]
    lacking += [f"{name}.{key}" for name, of in record["lists"].items() for key in PARTS_OF_LIST if key not in of]
    if lacking:
        raise UserError(f"{path}: {RECORD} lacks {', '.join(lacking[:5])}; {DAMAGED}")
    expected = {f"{name}.parquet": of_list["size"] for name, of_list in record["lists"].items()}
    expected[LICENCES] = record["licences"]["size"]
    for member in itertools.islice(tar, 1, None):
        _refuse_member(path, member, expected)
    if expected:
        raise UserError(f"{path} ends before {', '.join(sorted(expected)[:5])}; {DAMAGED}")
    return record


def _refuse_member(path: Path, member: tarfile.TarInfo, expected: dict[str, int]) -> None:
    """Raises UserError unless it is a plain file that the record names, and has its size; takes it from `expected`."""
    if not member.isreg() or member.name not in expected:
        kind = "" if member.isreg() else ", which is no plain file"
        raise UserError(f"{path} has a member {member.name!r}{kind} that {RECORD} does not name; it is not unpacked")
    if member.size != expected.pop(member.name):
        raise UserError(f"{path}: {member.name} does not have the size that {RECORD} states; {DAMAGED}")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a regular member
    data = file.read()
    if len(data) != member.size:
        raise UserError(f"{tar.name!r} ends in the middle of {member.name}; {DAMAGED}")
    return data


def read_packed(packed: Pack, name: str, to: Path) -> pa.Table:
    """Write the list `name` of a pack to the file `to`, and read it.

    Raises BadShard where its bytes are not those that were packed, or are no list of entries.
    """
    data = _read_checked(packed, f"{name}.parquet", packed.lists[name]["sha256"])
    write_artifact(to, lambda aside: aside.write_bytes(data))
    table = read_table(to, METADATA)
    _refuse_table(f"{packed.path}: {name}.parquet", table, packed.lists[name])
    return table


def read_licences(packed: Pack) -> str:
    """The page of licences.  Raises UserError where it is not what was packed."""
    try:
        return _read_checked(packed, LICENCES, packed.record["licences"]["sha256"]).decode("utf-8")
    except BadShard as error:
        raise UserError(str(error)) from error


def _read_checked(packed: Pack, name: str, sha256: str) -> bytes:
    try:
        with tarfile.open(packed.path, "r:") as tar:
            data = _read(tar, tar.getmember(name))
    except (tarfile.TarError, EOFError, KeyError, UserError) as error:
        raise BadShard(f"{packed.path}: {name} cannot be read ({error}); {DAMAGED}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BadShard(f"{packed.path}: {name} does not have the SHA-256 that {RECORD} states; {DAMAGED}")
    return data


def _refuse_table(what: str, table: pa.Table, of_list: Mapping[str, Any]) -> None:
    """A list that another program packed must be what ours are: numbered in order, each entry once, none empty."""
    from worldclip.match.matcher.matcher import entries_digest

    entries, entry_ids = table["entry"], table["entry_id"].to_numpy()
    is_list = (
        len(entries) == of_list["entries"]
        and entries.null_count == 0
        and np.array_equal(entry_ids, np.arange(len(entries)))
        and pc.count_distinct(entries).as_py() == len(entries)
        and entries_digest(entries) == of_list["digest"]
    )
    if not is_list:
        raise BadShard(f"{what} is not the list that {RECORD} describes (numbers, entries, digest); {DAMAGED}")
