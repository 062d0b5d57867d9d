"""`worldclip fetch dataset NAME`: download a dataset of the catalog into DIR/NAME, in the layout that evaluate reads.

Files come from a dataset repository of the Hugging Face hub (datasets.csv, column hub) or from URLs (sources.csv:
dataset, path, url, sha256, unpack = folder below DIR/NAME for an archive's members).  The hub publishes checksums; for
a URL without one, fetched.json records that of the first download.  Of an archive, which is removed once it is
unpacked, it names one file: where that is gone, the archive is fetched again.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldclip.core.artifacts import read_json, versions, write_json
from worldclip.core.command import Command, Flags
from worldclip.core.console import say
from worldclip.core.download import RETRY, Broken, Client, Download, file_digest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.job import Report
from worldclip.core.marks import Folder
from worldclip.core.safe_path import UnsafeName, is_safe_name, safe_join
from worldclip.core.suggest import nearest
from worldclip.evaluate.catalog import CATALOG, SUITES, read_csv
from worldclip.evaluate.datasets import layout_module

HUB = "https://huggingface.co"
RECORD = "fetched.json"
# The errors of an archive that is damaged or cut.
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file to fetch."""

    url: str
    path: str
    """Relative to the dataset's folder."""
    sha256: str = ""
    git_oid: str = ""
    """SHA-1 of the file as a git blob, the checksum that the hub publishes of small files."""
    unpack: str | None = None
    """Folder for an archive's members; None: keep the file as it is."""


def fetch_dataset(
    name: str,
    out: Annotated[Path | None, Folder()] = None,
    *,
    show: bool = False,
    mirror: str = "",
    with_train: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, int] | str:
    """Fetch dataset `name` into out/name; return numbers of files and bytes fetched, and of files there already.

    name: name in the catalog; an unknown one is an error that lists all.
    out: folder of datasets; the files go into OUT/NAME.
    show: print source, licence, metric and folder of the dataset; fetch nothing.
    mirror: server that holds the files of HOST under /HOST/ (default: the sources themselves).
    with_train: fetch the train split too, for linear probes.

    Raises UserError for a dataset without an open source, StageFailed with the files
    that failed; the same call then fetches only these.

    Examples:
        worldclip fetch dataset imagenet1k --out data
        worldclip fetch dataset xm3600 --show
    """
    if name not in CATALOG:
        meant = "".join(f"did you mean {near}? " for near in nearest(name, CATALOG))
        raise UserError(f"unknown dataset {name!r}; {meant}the catalog has {', '.join(CATALOG)}")
    if show:
        return describe(name)
    if out is None:
        raise UserError("--out is not set; set it to the folder of datasets, or give --show")
    folder = safe_join(out, name)
    client = Client(user_agent=f"worldclip/{versions()['worldclip']}", pause=pause)
    try:
        sources = list_sources(name, client, mirror, with_train)
        for source in sources:
            safe_join(folder, source.path)  # the listing of a server: refused before anything is fetched
    except (Broken, UnsafeName) as error:
        raise StageFailed("fetch dataset", {name: str(error)}, RETRY) from error
    counts = _fetch_missing(name, sources, mirror, folder, client)
    by_hand = CATALOG[name].by_hand
    if by_hand:
        say("fetch", f"to fetch by hand: {by_hand}")
    return counts


def _fetch_missing(name: str, sources: Sequence[Source], mirror: str, folder: Path, client: Client) -> dict[str, int]:
    """Fetch the files that are not there; return what fetch_dataset does.  Raises StageFailed naming failed files."""
    record: Report = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    published = {source.path for source in sources}
    vanished = [path for path in record if path not in published and not path.startswith("train/")]
    if vanished:
        say("fetch", f"warning: {name}: no longer published: {', '.join(vanished)}; remove them, or they are evaluated")
    counts = {"files": 0, "bytes": 0, "there_already": 0}
    failures: dict[str, str] = {}
    for source in sources:
        if _is_there(source, record.get(source.path), folder):
            counts["there_already"] += 1
            continue
        if source.path not in record and safe_join(folder, source.path).exists():
            failures[source.path] = f"is there, and {RECORD} does not say that it was fetched; move it away"
            continue
        record[source.path] = {"url": source.url}  # before anything is there: a killed fetch may repeat
        write_json(folder / RECORD, record)
        try:
            path = safe_join(folder, source.path)
            checksums = {"sha256": source.sha256 or None, "git_oid": source.git_oid or None}
            size = client.fetch(Download(url=mirrored(mirror, source.url), path=path, **checksums))
            entry: Report = {"url": source.url, "size": size, "sha256": file_digest(path, "sha256")}
            if source.sha256 or source.git_oid:
                entry["published"] = source.sha256 or source.git_oid
            if source.unpack is not None:
                entry["unpacked"] = _unpack(path, folder / source.unpack).relative_to(folder).as_posix()
                path.unlink()
        except (Broken, *DAMAGED) as error:
            failures[source.path] = str(error)
            continue
        record[source.path] = entry
        write_json(folder / RECORD, record)
        counts["files"] += 1
        counts["bytes"] += entry["size"]
        say("fetch", f"{name}/{source.path}, {entry['size']:,} bytes")
    if failures:
        raise StageFailed("fetch dataset", failures, RETRY)
    return counts


def _is_there(source: Source, entry: Report | None, folder: Path) -> bool:
    """Return whether a file was fetched, is there and is still the one that its server publishes."""
    if entry is None or "sha256" not in entry or not safe_join(folder, entry.get("unpacked", source.path)).exists():
        return False
    published = source.sha256 or source.git_oid
    if not published:
        return bool(entry["url"] == source.url)
    return bool(entry.get("published", published) == published)


def list_sources(name: str, client: Client, mirror: str = "", with_train: bool = False) -> list[Source]:
    """Return the files of a dataset.  Raises UserError if no program may fetch it."""
    sources = []
    for row in read_csv("sources.csv"):
        if row["dataset"] == name:
            unpack = row["unpack"] or None
            sources.append(Source(url=row["url"], path=row["path"], sha256=row["sha256"], unpack=unpack))
    if sources:
        return sources
    info = CATALOG[name]
    if info.hub:
        files = _hub_files(info.hub, client, mirror)
        return [source for source in files if with_train or not source.path.startswith("train/")]
    raise UserError(
        f"{name} has no source that a program may fetch from ({info.address}; licence: {info.licence}); "
        f"by hand: {info.by_hand}; worldclip fetch dataset {name} --show describes the folder"
    )


def describe(name: str) -> str:
    """Return what one must know of a dataset: source, licence, languages, metric, how to get it, and its folder."""
    info = CATALOG[name]
    lines = {
        "dataset": info.title,
        "source": f"{info.source}, {info.address}",
        "licence": info.licence,
        "languages": "English" if info.languages == "1" else info.languages,
        "metric": ", ".join(info.metrics),
        "suites": ", ".join(suite for suite, names in SUITES.items() if name in names),
        "fetch": f"worldclip fetch dataset {name} --out DATA" if name in names_to_fetch() else "",
        "by hand": info.by_hand,
        "names": "OpenAI's of ImageNet with their 80 templates" if info.classes == "imagenet" else "",
        "each .npy": ", ".join(info.fields),
        "layout": info.layout,
    }
    facts = "\n".join(f"{key}: {value}" for key, value in lines.items() if value)
    return f"{facts}\n\n{(layout_module(info.layout).__doc__ or '').strip()}"


def names_to_fetch() -> Sequence[str]:
    """Return the datasets that fetch_dataset has a source for."""
    listed = {row["dataset"] for row in read_csv("sources.csv")}
    return [name for name, info in CATALOG.items() if info.hub or name in listed]


def _hub_files(repository: str, client: Client, mirror: str) -> Iterator[Source]:
    """Yield the files of a dataset repository with their checksums, without README and hidden files.

    Raises Broken for an answer that is no listing.
    """
    url = f"{HUB}/api/datasets/{repository}/tree/main?recursive=true"
    while url:
        listing, link = client.read_page(mirrored(mirror, url))
        try:
            items = json.loads(listing)
            is_listing = all(isinstance(item["path"], str) for item in items)
            is_listing &= all("oid" in item for item in items if item["type"] == "file")
        except (ValueError, TypeError, KeyError, RecursionError):
            is_listing = False
        if not is_listing:
            raise Broken(f"{url}: the answer is not a list of files; try again later, or another mirror")
        for item in items:
            path = item["path"]
            if item["type"] != "file" or Path(path).name.startswith((".", "README")):
                continue
            sha256 = (item.get("lfs") or {}).get("oid", "")
            yield Source(
                url=f"{HUB}/datasets/{repository}/resolve/main/{urllib.parse.quote(path)}",
                path=path,
                sha256=sha256,
                git_oid="" if sha256 else item["oid"],
            )
        url = link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""


def mirrored(mirror: str, url: str) -> str:
    """Return the URL of a file on the mirror."""
    if not mirror or url.startswith(mirror):
        return url
    parts = urllib.parse.urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}{query}"


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip, a tar or the one file of a .gz into `folder`; return the path of its first file.

    Nothing is written outside of `folder`.  Raises Broken for an archive without files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # drops leading slashes and ..
            names = file.namelist()
    elif archive.name.endswith((".tgz", ".tar.gz", ".tar")):
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
            names = file.getnames()
    else:
        names = [archive.name.removesuffix(".gz")]
        with gzip.open(archive) as packed, open(safe_join(folder, names[0]), "wb") as plain:
            shutil.copyfileobj(packed, plain)
    for name in names:
        name = name.lstrip("/")
        if is_safe_name(name) and safe_join(folder, name).is_file():
            return safe_join(folder, name)
    raise Broken(f"{archive.name} holds no files; try again later, or another mirror")


def _to_text(counts: Mapping[str, int] | str, flags: Flags) -> str:
    if isinstance(counts, str):
        return counts
    numbers = f"{counts['files']:,} files, {counts['bytes']:,} bytes, {counts['there_already']:,} exist already"
    return f"{flags.out / flags.name}: {numbers}"


FETCH_DATASET = Command(fetch_dataset, _to_text)
"""Download an evaluation dataset into the layout that `worldclip evaluate` reads."""
