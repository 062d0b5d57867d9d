"""`worldclip pack`: the lists of a run in one file to share, with sources, licences and digests.

The format, and how it is read: metadata/sources/pack.py.  `worldclip unpack`: tools/unpack.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from worldclip.core.artifacts import METADATA, digest, read_table, require_manifest, versions, write_artifact
from worldclip.core.errors import UserError
from worldclip.match.matcher.matcher import entries_digest
from worldclip.metadata.sources.pack import FORMAT, LICENCES, RECORD, VERSION, PackedList, PackRecord
from worldclip.metadata.stage import MERGED, STAGE, how_to_rebuild


class PackReport(TypedDict):
    """What was packed."""

    file: str
    lists: int
    entries: int
    bytes: int
    licences: dict[str, list[str]]
    """Licence -> the lists that have a source under it."""


def pack(run_dir: Path, out: Path) -> PackReport:
    """Write the lists of a finished metadata stage to `out`; the same lists give the same bytes.

    Raises UserError if the stage is not finished or a list changed since.
    """
    manifest = require_manifest(run_dir, STAGE)
    paths = {name: run_dir / STAGE / f"{name}.parquet" for name in sorted(manifest["counts"]) if name != MERGED}
    lists = {name: _describe(name, path, manifest) for name, path in paths.items()}
    licences = _lists_by_licence(lists)
    page = _licence_page(lists, licences).encode()
    record = PackRecord(
        format=FORMAT,
        version=VERSION,
        made_with=versions(),
        match=manifest["config"]["match"],
        lists=lists,
        pageviews=manifest["pageviews"],
        licences={"file": LICENCES, "size": len(page), "sha256": hashlib.sha256(page).hexdigest()},
    )
    record["digest"] = digest(record)
    head = (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in ((RECORD, head), (LICENCES, page)):
                tar.addfile(_member(name, len(data)), io.BytesIO(data))
            for name, path in paths.items():
                with open(path, "rb") as file:
                    tar.addfile(_member(f"{name}.parquet", lists[name]["size"]), file)

    write_artifact(out, write)
    return PackReport(
        file=str(out),
        lists=len(lists),
        entries=sum(packed_list["entries"] for packed_list in lists.values()),
        bytes=out.stat().st_size,
        licences=licences,
    )


def _describe(name: str, path: Path, manifest: Mapping[str, Any]) -> PackedList:
    list_digest = entries_digest(read_table(path, METADATA, ["entry"])["entry"])
    if list_digest != manifest["digests"][name]:
        raise UserError(f"{path}: changed after it was written; {how_to_rebuild(path.parent)}")
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PackedList(
        file=f"{name}.parquet",
        size=path.stat().st_size,
        sha256=sha256,
        entries=manifest["counts"][name],
        digest=list_digest,
        by_source={source: counts["kept"] for source, counts in manifest["rules"][name].items()},
        rules=manifest["rules"][name],
        sources=manifest["sources"][name],
    )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
    member.size = size
    return member


def _lists_by_licence(lists: Mapping[str, PackedList]) -> dict[str, list[str]]:
    names: dict[str, set[str]] = {}
    for name, packed_list in lists.items():
        for source in packed_list["sources"]:
            if "licence" in source:
                names.setdefault(source["licence"], set()).add(name)
    return {licence: sorted(names[licence]) for licence in sorted(names)}


def _licence_page(lists: Mapping[str, PackedList], licences: Mapping[str, Sequence[str]]) -> str:
    """Return what a person must know to pass the lists on, as Markdown."""
    lines = ["# Licences of these lists of entries", "", "Each list is under the licences of all its sources.", ""]
    lines += [f"- **{licence}**: {', '.join(names)}" for licence, names in licences.items()]
    lines += ["", "| list | entries | source | from | licence |", "|---|---:|---|---|---|"]
    for name, packed_list in lists.items():
        for source in packed_list["sources"]:
            origin = source.get("name") or source.get("file") or source.get("package") or ""
            row = (name, f"{packed_list['entries']:,}", source["source"], origin, source.get("licence", ""))
            lines.append("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |")
    return "\n".join([*lines, ""])
