"""`worldclip fetch dataset NAME`: a data set of the catalog into DIR/NAME, in the layout that evaluate reads.

From a dataset repository of the Hugging Face hub (datasets.csv, column hub) or from addresses (sources.csv: dataset,
path, url, sha256, unpack = folder below DIR/NAME that an archive's members go into).  A file has its final name only
when it is whole and its checksum right; until then it is `<name>.part`, which the next call goes on with.  The hub
publishes checksums; of an address without one the first download's is kept in fetched.json.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.client
import json
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldclip.errors import StageFailed, UserError
from worldclip.evaluate.catalog import CATALOG
from worldclip.execute import say
from worldclip.formats import read_json, versions, write_json

HUB = "https://huggingface.co"
RECORD = "fetched.json"
CHUNK_BYTES = 2**20
TIMEOUT_S = 60
MAX_TRIES = 5  # without a byte of progress
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})


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


class Broken(RuntimeError):
    """A download that trying again will not mend."""


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
    try:
        sources = [replace(each, url=_mirrored(mirror, each.url)) for each in plan(name, mirror, with_train)]
    except (Broken, OSError) as error:
        raise StageFailed("fetch dataset", {name: str(error)}) from error
    record: dict[str, Any] = read_json(folder / RECORD) if (folder / RECORD).exists() else {}
    counts = {"files": 0, "bytes": 0, "there_already": 0}
    failures: dict[str, str] = {}
    for source in sources:
        if source.path in record and (source.unpack is not None or (folder / source.path).exists()):
            counts["there_already"] += 1
            continue
        try:
            record[source.path] = _fetch(source, folder, pause)
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


def plan(name: str, mirror: str = "", with_train: bool = False) -> list[Source]:
    """The files of a data set.  UserError where none of its sources is open to programs."""
    with open(Path(__file__).with_name("sources.csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    if rows:
        return [
            Source(url=row["url"], path=row["path"], sha256=row["sha256"], unpack=row["unpack"] or None) for row in rows
        ]
    if hub := CATALOG[name].hub:
        return [source for source in _hub_files(hub, mirror) if with_train or not source.path.startswith("train/")]
    raise UserError(
        f"{name} has no source that a program may fetch from ({CATALOG[name].source}, {CATALOG[name].licence}); "
        "docs/6_evaluate.md says its layout, so that you can put it there by hand"
    )


def _hub_files(repository: str, mirror: str) -> list[Source]:
    """The files of a dataset repository with their checksums, without its housekeeping."""
    found: list[Source] = []
    url = f"{HUB}/api/datasets/{repository}/tree/main?recursive=true"
    while url:
        with _open(_mirrored(mirror, url), 0) as answer:
            listing, link = json.load(answer), answer.headers.get("Link", "")
        for item in listing:
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


def _fetch(source: Source, folder: Path, pause: Callable[[float], None]) -> dict[str, Any]:
    """A file in its place, or an archive unpacked; what is noted of it."""
    path = folder / source.path
    part = path.with_name(f"{path.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    _persist(source.url, part, pause)
    size, sha256 = part.stat().st_size, _digest(part, "sha256")
    if problem := _problem(source, part, sha256):
        part.unlink()
        raise Broken(f"{source.url}: {problem}; the same command fetches it anew")
    if source.unpack is None:
        os.replace(part, path)
    else:
        _unpack(part, path.name, folder / source.unpack)
        part.unlink()
    return {"url": source.url, "size": size, "sha256": sha256}


def _problem(source: Source, part: Path, sha256: str) -> str:
    if source.sha256 and sha256 != source.sha256:
        return f"its SHA-256 is {sha256}, the published one {source.sha256}"
    if source.git_oid:
        blob = hashlib.sha1(f"blob {part.stat().st_size}\0".encode() + part.read_bytes()).hexdigest()
        if blob != source.git_oid:
            return f"its git blob is {blob}, the published one {source.git_oid}"
    return ""


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _unpack(archive: Path, name: str, folder: Path) -> None:
    """Members of a zip or tar, or the one file of a .gz, into `folder`; nothing outside it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # drops leading slashes and ..
    elif name.endswith((".tgz", ".tar.gz", ".tar")):
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
    else:
        with gzip.open(archive) as packed, open(folder / name.removesuffix(".gz"), "wb") as plain:
            shutil.copyfileobj(packed, plain)


def _persist(url: str, part: Path, pause: Callable[[float], None]) -> None:
    """`part` whole; gives up after MAX_TRIES in which it did not grow."""
    tries, reached = 0, _size(part)
    while True:
        try:
            _go_on(url, part)
            return
        except urllib.error.HTTPError as error:
            if error.code not in TRY_AGAIN:
                raise Broken(f"{url}: the server answers {error.code} {error.reason}") from error
            reason = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        tries, reached = (1, _size(part)) if _size(part) > reached else (tries + 1, reached)
        if tries == MAX_TRIES:
            raise Broken(f"{url}: gave up after {MAX_TRIES} tries without progress; the last said: {reason}")
        pause(2.0**tries)


def _go_on(url: str, part: Path) -> None:
    """Append to `part` what it lacks; a server that does not know ranges sends all of it again."""
    start = _size(part)
    try:
        answer = _open(url, start)
    except urllib.error.HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # it was whole already
        part.unlink()
        raise ConnectionError("the part on disk does not fit the server's file") from error
    with answer:
        is_rest = answer.status == PARTIAL_CONTENT
        start = start if is_rest else 0
        with open(part, "ab" if is_rest else "wb") as file:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
        promised = answer.headers.get("Content-Length")
        if promised is not None and _size(part) - start != int(promised):
            raise ConnectionError(f"the connection broke after {_size(part):,} of {start + int(promised):,} bytes")


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"worldclip/{versions()['worldclip']}"} | ({"Range": f"bytes={start}-"} if start else {})
    answer: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
    )
    return answer


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def names_to_fetch() -> Sequence[str]:
    """Data sets that fetch_dataset has a source for."""
    with open(Path(__file__).with_name("sources.csv"), encoding="utf-8", newline="") as file:
        listed = {row["dataset"] for row in csv.DictReader(file)}
    return [name for name, info in CATALOG.items() if info.hub or name in listed]
