"""`worldclip fetch dataset NAME`: a data set of the catalog into DIR/NAME, in the layout that evaluate reads.

From a dataset repository of the Hugging Face hub (datasets.csv, column hub) or from addresses (sources.csv: dataset,
path, url, sha256, unpack = folder below DIR/NAME that an archive's members go into).  The hub publishes checksums; of
an address without one the first download's is kept in fetched.json.
"""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import tarfile
import time
import urllib.parse
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import read_json, versions, write_json
from worldclip.core.console import say
from worldclip.core.download import Broken, Client, Download, file_digest
from worldclip.core.errors import StageFailed, UserError
from worldclip.evaluate.catalog import CATALOG, TABLE

HUB = "https://huggingface.co"
RECORD = "fetched.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file to fetch: its address, its place below the data set's folder, what is known of it."""

    url: str
    path: str
    sha256: str = ""
    git_oid: str = ""
    """SHA-1 of the file as a git blob, what the hub publishes of small files."""
    unpack: str | None = None
    """Folder that an archive's members go into; None: the file itself is wanted."""


def fetch_dataset(
    name: str, out: Path, *, mirror: str = "", with_train: bool = False, pause: Callable[[float], None] = time.sleep
) -> dict[str, int]:
    """Bring data set `name` into out/name; returns numbers of files and bytes fetched, and of files there already.

    mirror: a server that holds the files of HOST under /HOST/; empty: the sources themselves.  with_train: the train
    split too, where there is one.  UserError for a data set that has no open source, StageFailed naming what could not
    be had; the same call then goes on.
    """
    if name not in CATALOG:
        raise UserError(f"{name!r} is no data set of the catalog; there are: {', '.join(CATALOG)}")
    folder = out / name
    client = Client(user_agent=f"worldclip/{versions()['worldclip']}", pause=pause)
    try:
        sources = [replace(each, url=_mirrored(mirror, each.url)) for each in plan(name, client, mirror, with_train)]
    except Broken as error:
        raise StageFailed("fetch dataset", {name: str(error)}) from error
    record: dict[str, Any] = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    counts = {"files": 0, "bytes": 0, "there_already": 0}
    failures: dict[str, str] = {}
    for source in sources:
        if source.path in record and (source.unpack is not None or (folder / source.path).exists()):
            counts["there_already"] += 1
            continue
        try:
            record[source.path] = _fetch(source, folder, client)
        except (Broken, tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
            failures[source.path] = str(error)
            continue
        counts["files"] += 1
        counts["bytes"] += record[source.path]["size"]
        write_json(folder / RECORD, record)
        say("fetch", f"{name}/{source.path}, {record[source.path]['size']:,} bytes")
    if failures:
        raise StageFailed("fetch dataset", failures)
    return counts


def plan(name: str, client: Client, mirror: str = "", with_train: bool = False) -> list[Source]:
    """The files of a data set.  UserError where none of its sources is open to programs."""
    with open(TABLE.with_name("sources.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    if rows:
        return [
            Source(url=row["url"], path=row["path"], sha256=row["sha256"], unpack=row["unpack"] or None) for row in rows
        ]
    if hub := CATALOG[name].hub:
        return [
            source for source in _hub_files(hub, client, mirror) if with_train or not source.path.startswith("train/")
        ]
    info = CATALOG[name]
    raise UserError(
        f"{name} has no source that a program may fetch from ({info.address}; licence: {info.licence}); "
        f"by hand: {info.by_hand}; docs/datasets.md shows the folder"
    )


def _hub_files(repository: str, client: Client, mirror: str) -> list[Source]:
    """The files of a dataset repository with their checksums, without its housekeeping."""
    found: list[Source] = []
    url = f"{HUB}/api/datasets/{repository}/tree/main?recursive=true"
    while url:
        listing, link = client.read_page(_mirrored(mirror, url))
        for item in json.loads(listing):
            if item["type"] == "file" and not Path(item["path"]).name.startswith((".", "README")):
                sha256 = item.get("lfs", {}).get("oid", "")
                place = f"{HUB}/datasets/{repository}/resolve/main/{urllib.parse.quote(item['path'])}"
                found.append(Source(url=place, path=item["path"], sha256=sha256, git_oid="" if sha256 else item["oid"]))
        url = link.partition("<")[2].partition(">")[0] if 'rel="next"' in link else ""
    return found


def _mirrored(mirror: str, url: str) -> str:
    if not mirror or url.startswith(mirror):
        return url
    parts = urllib.parse.urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}{query}"


def _fetch(source: Source, folder: Path, client: Client) -> dict[str, Any]:
    """A file in its place, or an archive unpacked; what is noted of it."""
    path = folder / source.path
    checksums = {"sha256": source.sha256 or None, "git_oid": source.git_oid or None}
    size = client.fetch(Download(url=source.url, path=path, **checksums))
    record = {"url": source.url, "size": size, "sha256": file_digest(path, "sha256")}
    if source.unpack is not None:
        _unpack(path, folder / source.unpack)
        path.unlink()
    return record


def _unpack(archive: Path, folder: Path) -> None:
    """Members of a zip or tar, or the one file of a .gz, into `folder`; nothing outside it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # drops leading slashes and ..
    elif archive.name.endswith((".tgz", ".tar.gz", ".tar")):
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    else:
        with gzip.open(archive) as packed, open(folder / archive.name.removesuffix(".gz"), "wb") as plain:
            shutil.copyfileobj(packed, plain)


def names_to_fetch() -> Sequence[str]:
    """Data sets that fetch_dataset has a source for."""
    with open(TABLE.with_name("sources.csv"), encoding="utf-8", newline="") as file:
        listed = {row["dataset"] for row in csv.DictReader(file)}
    return [name for name, info in CATALOG.items() if info.hub or name in listed]
