"""`worldclip pack`: the lists of a run in one file to share, with sources, licences and digests; `worldclip unpack`.

The format, and how it is read: metadata/sources/pack.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

import fsspec

from worldclip import metadata
from worldclip.contracts import layout
from worldclip.contracts.schemas import METADATA
from worldclip.core import artifacts
from worldclip.core.artifacts import digest, write_artifact
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.download import RETRY, Broken, Client, Download, file_digest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import Executor, Report
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.job import Run, RunLock
from worldclip.core.marks import Metavar
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.core.settings import load_config, read_toml, to_dict, to_toml
from worldclip.core.tars import add_member
from worldclip.language.config import LanguagesConfig, open_run
from worldclip.match.config import MERGED, MatchConfig
from worldclip.match.matcher.matcher import entries_digest
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.matchers import STAGE, how_to_rebuild
from worldclip.metadata.sources import pack as packs
from worldclip.metadata.sources.pack import LICENCES, PackedList, PackRecord
from worldclip.pool.files import check_run_folder
from worldclip.tools.status import STAGES


def pack(run_dir: Annotated[Path, Metavar("RUN")], out: Path) -> Report:
    """Write the lists of a finished metadata stage to `out`; the same lists give the same bytes.

    run_dir: folder of a run whose stage metadata is finished.
    out: file to write (.tar).

    Returns {file, lists, entries, bytes, licences: {licence: the lists that have a source under it}}.  Raises UserError
    if the stage is not finished or a list changed since.

    Examples:
        worldclip pack runs/my_images --out lists.tar
        worldclip pack runs/my_images --out lists.tar --json
    """
    config = open_run(run_dir).section(LanguagesConfig)
    manifest = artifacts.require_manifest(run_dir, STAGE)
    paths = {name: layout.entries(run_dir, name) for name in sorted(manifest["counts"]) if name != MERGED}
    lists = {name: _describe(name, path, manifest) for name, path in paths.items()}
    licences = _lists_by_licence(lists)
    page = _licence_page(lists, licences).encode()
    record = PackRecord(
        format=packs.FORMAT,
        version=packs.VERSION,
        made_with=artifacts.versions(),
        match=manifest["config"]["match"],
        lists=lists,
        pageviews=manifest["pageviews"],
        licences={"file": LICENCES, "size": len(page), "sha256": hashlib.sha256(page).hexdigest()},
    )
    if added := {code: to_dict(language) for code, language in config.add.items() if code in lists}:
        record["languages"] = added
    record["digest"] = digest(record)
    head = (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode()

    def write(aside: Path) -> None:
        with tarfile.open(aside, "w", format=tarfile.USTAR_FORMAT) as tar:
            add_member(tar, packs.RECORD, head)
            add_member(tar, LICENCES, page)
            for name, path in paths.items():
                add_member(tar, f"{name}.parquet", path.read_bytes())

    write_artifact(out, write)
    num_entries = sum(packed_list["entries"] for packed_list in lists.values())
    size = out.stat().st_size
    return {"file": str(out), "lists": len(lists), "entries": num_entries, "bytes": size, "licences": licences}


def _describe(name: str, path: Path, manifest: Mapping[str, Any]) -> PackedList:
    list_digest = entries_digest(artifacts.read_table(path, METADATA, ["entry"])["entry"])
    if list_digest != manifest["digests"][name]:
        raise UserError(f"{path}: changed after it was written; {how_to_rebuild(path.parent)}")
    return PackedList(
        file=f"{name}.parquet",
        size=path.stat().st_size,
        sha256=file_digest(path, "sha256"),
        entries=manifest["counts"][name],
        digest=list_digest,
        by_source={source: counts["kept"] for source, counts in manifest["rules"][name].items()},
        rules=manifest["rules"][name],
        sources=manifest["sources"][name],
    )


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


# --- unpack -----------------------------------------------------------------------------------------------------------


def unpack(source: str, out: Path | None = None, executor: Executor | None = None) -> Report:
    """Make `out` a run with the lists of a pack, its matchers compiled for the same profile as in the packer's run.

    A downloaded pack is kept in `out`, since the run's recipe names it (metadata.pack).  Which pairs to match is left
    to the user.  Returns the stage's report.

    source: file that `worldclip pack` wrote, or its URL (http, s3, ...).
    out: folder of the run (default: runs/<name of the file>).

    Raises UserError for a file that is not a pack and for a folder of another run, StageFailed if a list is damaged
    (the others are done).

    Examples:
        worldclip unpack lists.tar --out lists
        worldclip unpack lists.tar --out lists --json
    """
    out = out or default_folder(source)
    path = fetch_pack(source, out)
    added: LanguagesConfig = load_config(LanguagesConfig, {"add": packs.read_added_languages(path)})
    packed = packs.open_pack(path, added.table)
    if layout.recipe(out).exists():
        other = read_toml(out).get("metadata", {}).get("pack", "")
        if other != str(packed.path):
            lists = f"metadata.pack = {other!r}" if other else "lists of its own"
            raise UserError(f"{out} holds a run with {lists}; unpack into another folder (--out DIR)")
    check_run_folder(out, STAGES)
    match = packed.record["match"]
    configs = (
        LanguagesConfig(codes=tuple(packed.lists), add=added.add),
        MetadataConfig(pack=str(packed.path)),
        MatchConfig(profile=match["profile"], fold_case=match["fold_case"]),
    )
    run = Run.of(out, *configs, executor=executor)
    with RunLock(out):
        if not layout.recipe(out).exists():  # after an earlier call, a person may have extended it
            artifacts.write_text(layout.recipe(out), to_toml(run.sections))
        artifacts.write_json(layout.run_record(out), artifacts.describe_run())
        artifacts.write_text(out / LICENCES, packs.read_licences(packed))
        metadata.build(run)
    report: Report = artifacts.read_json(layout.report_json(out / STAGE))
    return report


def default_folder(source: str) -> Path:
    """Return runs/<name of the file>."""
    return Path("runs") / Path(source).stem


def fetch_pack(source: str, out: Path) -> Path:
    """Return the path of a pack: `source` itself if it is a file, else its copy in `out`, downloaded if missing."""
    if "://" not in source:
        if not Path(source).is_file():
            raise UserError(f"{source!r}: no such file; name a file that worldclip pack wrote, or its URL")
        return Path(source)
    name = PurePosixPath(urlsplit(source).path).name
    path = safe_join(out, name if is_safe_name(name) else "lists.tar")
    source_note = path.with_name(f".{path.name}.url")
    address = hashlib.sha256(source.encode()).hexdigest()  # it may hold a credential
    if path.is_file():
        if source_note.is_file() and source_note.read_text(encoding="utf-8") != address:
            raise UserError(f"{path} came from another address; remove it, or unpack into another folder (--out DIR)")
        say("unpack", f"{path} exists already")
        return path
    artifacts.write_text(source_note, address)
    try:
        if source.startswith(("http://", "https://")):
            client = Client(user_agent=f"worldclip/{artifacts.versions()['worldclip']}")
            client.fetch(Download(url=source, path=path))
        else:
            _copy(source, path)
    except ValueError as error:
        raise UserError(f"{source}: not a URL that can be read ({error})") from error
    except Broken as error:
        raise StageFailed("unpack", {source: str(error)}, RETRY) from error
    except Exception as error:  # those of a store's library have no common class
        if not isinstance(error, OSError) and explain_answer(error) is None:
            raise
        raise StageFailed("unpack", {source: explain(error)}, RETRY) from error
    return path


def _copy(url: str, path: Path) -> None:
    def write(aside: Path) -> None:
        with fsspec.open(url, "rb") as file, open(aside, "wb") as copy:
            shutil.copyfileobj(file, copy)

    write_artifact(path, write)


def _pack_text(report: Mapping[str, Any], flags: Flags) -> str:
    lines = [f"{report['lists']:,} lists, {report['entries']:,} entries, {report['bytes']:,} bytes: {flags.out}"]
    return "\n".join([*lines, *(f"  {name}: {', '.join(lists)}" for name, lists in report["licences"].items())])


def _unpack_text(report: Mapping[str, Any], flags: Flags) -> str:
    lists = report["lists"]
    entries = sum(counts["entries"] for counts in lists.values())
    return f"{len(lists):,} lists, {entries:,} entries: {flags.out or default_folder(flags.source)}"


PACK = Command(pack, _pack_text)
"""Write all entry lists of a run to one file, with sources, licences and digests."""

UNPACK = Command(unpack, _unpack_text)
"""Make a run with finished metadata from packed entry lists."""
