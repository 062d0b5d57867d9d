"""`worldclip fetch cldr`: names and keywords of the emoji from CLDR's own archive, for the world pool's part `cldr`.

OUT/annotations/de.xml, OUT/annotationsDerived/de.xml   one file per locale
OUT/ldml.dtd                                            has the version
OUT/fetched.json                                        written last: version, URL, SHA-256 of the archive, files

Nothing of the archive is trusted: of a member's name only its last two parts count, and sizes are those that come out.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from worldclip.core.artifacts import read_json, versions, write_json
from worldclip.core.command import Command
from worldclip.core.console import say
from worldclip.core.download import CHUNK_BYTES, RETRY, Broken, Client, Download, file_digest
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.plugins.world.cldr import read_version
from worldclip.tools.fetch_dataset import fetched_text, mirrored

URL = "https://unicode.org/Public/cldr/{version}/core.zip"
VERSION = "48"
RECORD = "fetched.json"
FOLDERS = ("annotations", "annotationsDerived")
DTD = "ldml.dtd"
MAX_MEMBERS = 50_000  # core.zip of version 46 has some 8,000
MAX_FILE_BYTES = 2**24  # the largest file of annotations has 1 MB
MAX_BYTES = 2**29  # limit of all written files
_VERSION = re.compile(r"\d+(\.\d+){0,2}")
_LOCALE_FILE = re.compile(r"[A-Za-z0-9_]{1,32}\.xml", re.ASCII)
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""Errors of zipfile for a cut, damaged, oddly compressed or encrypted archive."""


def fetch_cldr(
    out: Path, *, version: str = VERSION, mirror: str = "", pause: Callable[[float], None] = time.sleep
) -> dict[str, int]:
    """Fetch CLDR's annotations into `out`; return numbers of files, bytes fetched, and files there already.

    out: folder for `worldclip pool world --cldr`.
    version: of CLDR, for example 48 or 46.1.
    mirror: server that holds the files of HOST under /HOST/ (default: the source itself).

    Raises UserError for a version that is no number and for a folder with another version or with annotations of
    others, StageFailed if the archive cannot be fetched, is damaged or of another version; the same call then starts
    again where it can.

    Examples:
        worldclip fetch cldr --out cldr
        worldclip fetch cldr --out cldr --json
    """
    if not _VERSION.fullmatch(version):
        raise UserError(f"--version {version!r}: must be a number, for example {VERSION} or 46.1")
    record = read_json(out / RECORD) if (out / RECORD).exists() else None
    if record and record["version"] != version:
        raise UserError(f"--out {str(out)!r} holds CLDR {record['version']}; choose another folder for {version}")
    if record and all((out / name).is_dir() for name in FOLDERS):
        _remove_archives(out)
        return {"files": 0, "bytes": 0, "there_already": record["files"]}
    archive = out / f"core-{version}.zip"
    theirs = [name for name in FOLDERS if (out / name).exists()]
    if theirs and not record and not archive.exists():  # else ours, of a call that was killed
        raise UserError(f"--out {str(out)!r} holds {theirs[0]!r}, which would be replaced; choose another folder")
    url = mirrored(mirror, URL.format(version=version))
    client = Client(user_agent=f"worldclip/{versions()['worldclip']}", pause=pause)
    try:
        size = 0 if archive.exists() else client.fetch(Download(url=url, path=archive))
        num_files = _unpack(archive, out, version)
    except Broken as error:
        raise StageFailed("fetch cldr", {"core.zip": str(error)}, RETRY) from error
    write_json(
        out / RECORD, {"version": version, "url": url, "sha256": file_digest(archive, "sha256"), "files": num_files}
    )
    _remove_archives(out)
    say("fetch", f"CLDR {version}: {num_files:,} files of annotations")
    return {"files": num_files, "bytes": size, "there_already": 0}


def _remove_archives(out: Path) -> None:
    """Remove what was downloaded and unpacked on the way, also by a call that was killed."""
    for path in out.glob("core-*.zip*"):
        path.unlink()
    shutil.rmtree(out / ".unpacked", ignore_errors=True)


def _unpack(archive: Path, out: Path, version: str) -> int:
    """Write the annotations of an archive into `out`; return their number.

    Raises Broken for one that is damaged, too large, without annotations or of another version; it is removed then, so
    that the next call downloads it again.
    """
    aside = out / ".unpacked"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        num_files = _write_members(archive, aside)
        if not num_files:
            raise Broken("holds no annotations; is it CLDR's core.zip?")
        unpacked_version = read_version(aside)
        if unpacked_version != version:
            raise Broken(f"is of version {unpacked_version}, not {version}; give its version, or another mirror")
    except (*_BROKEN_ARCHIVE, Broken) as error:
        archive.unlink()
        shutil.rmtree(aside, ignore_errors=True)
        raise Broken(f"{archive.name}: {error}; it was removed, the same command downloads it again") from error
    for path in sorted(aside.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    aside.rmdir()
    return num_files


def _write_members(archive: Path, folder: Path) -> int:
    """Write what is wanted of an archive below `folder`; return the number of files of annotations."""
    num_files = 0
    bytes_left = MAX_BYTES
    for member, file in _wanted_members(archive):
        path = safe_join(folder, *member)
        path.parent.mkdir(parents=True, exist_ok=True)
        with file, open(path, "xb") as to:
            size = 0
            while chunk := file.read(CHUNK_BYTES):
                size += len(chunk)
                if size > min(MAX_FILE_BYTES, bytes_left):
                    raise Broken(
                        f"{'/'.join(member)} unpacks to more than {MAX_FILE_BYTES:,} bytes, or all to too many"
                    )
                to.write(chunk)
        bytes_left -= size
        num_files += member[0] in FOLDERS
    return num_files


def _wanted_members(archive: Path) -> Iterator[tuple[tuple[str, ...], IO[bytes]]]:
    """Yield the parts of the path to write, and the opened file, of each member that is wanted.

    Members with a path that leads out of the archive are refused, however harmless the rest.
    """
    seen = set()
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        if len(members) > MAX_MEMBERS:
            raise Broken(f"has more than {MAX_MEMBERS:,} members")
        for info in members:
            if not is_safe_name(info.filename) or "\\" in info.filename:
                raise Broken(f"has a member {info.filename!r}, which is no path below a folder")
            *_, folder, name = ("", *info.filename.split("/"))
            member = (DTD,) if name == DTD else (folder, name)
            is_wanted = name == DTD or (folder in FOLDERS and _LOCALE_FILE.fullmatch(name))
            if is_wanted and member not in seen:
                seen.add(member)
                yield member, file.open(info)


FETCH_CLDR = Command(fetch_cldr, lambda counts, flags: fetched_text(counts, flags.out))
"""Download names and keywords of the emoji, CLDR's annotations, for `pool world`."""
