"""WordNets for `worldclip fetch metadata`: the Open Multilingual Wordnet, or lexicons of the package wn.

DUMPS/wordnets/<archive>                              as downloaded
DUMPS/wordnets/<language>/<lexicon>-<version>.xml.gz  its WN-LMF files, by our code of the language
DUMPS/wordnets/<project>-<version>.json               written last: URL, SHA-256, and each lexicon's licence

What an archive says is not trusted: no member's name becomes a path, and members that are no plain files are skipped.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast
from xml.parsers import expat

from worldclip.core.artifacts import Json, read_json, write_json
from worldclip.core.download import CHUNK_BYTES, Broken, Download, file_digest
from worldclip.core.errors import UserError, require
from worldclip.core.safe_path import is_safe_name, safe_join
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.sources.wordnet import FOLDER, OMW_LEXICONS, our_code

OMW = "omw:2.0"
# Projects with a known checksum: {name: (URL, SHA-256)}.  omw-2.0.tar.xz has 55,846,636 bytes, 622 MB unpacked.
PINNED = {
    OMW: (
        "https://github.com/omwn/omw-data/releases/download/v2.0/omw-2.0.tar.xz",
        "c369a2ad773a31e182ac4cc753132fa7c31ad423586d6783bacce08090cb8d7d",
    )
}
MAX_UNPACKED_BYTES = 2**32  # of an archive, members that are skipped included
MAX_LEXICON_BYTES = 2**29  # the largest of the Open Multilingual Wordnet, English, has 115 MB
MAX_MEMBERS = 10_000
MAX_HEADER_BYTES = 2**20
HEAD_BYTES = 2**20  # in which the first lexicon of a WN-LMF file begins
_ID, _VERSION = re.compile(r"\w[\w.-]{0,63}", re.ASCII), re.compile(r"\w[\w.+-]{0,31}", re.ASCII)
_ENDINGS = (".tar.xz", ".tar.gz", ".tgz", ".xml.gz", ".xml.xz")
_HEADERS = (b"x", b"g", b"X", tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_BROKEN_ARCHIVE = (tarfile.TarError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """One archive of WordNets: its name in the index of wn (`omw:2.0`), the download, and its record once unpacked."""

    name: str
    download: Download
    record: Path

    @property
    def is_unpacked(self) -> bool:
        if not self.record.exists():
            return False
        folder = self.record.parent
        return all(safe_join(folder, lexicon["file"]).exists() for lexicon in read_json(self.record)["lexicons"])


def plan_wordnets(names: Sequence[str], mirror: str, config: MetadataConfig, langs: Collection[str]) -> list[Project]:
    """Return the projects to download for the languages `langs`.

    The Open Multilingual Wordnet is left out if the recipe names a WordNet of each of these languages that it has.
    mirror: server that has the archives under their file names; empty: their own.  Raises UserError for unknown names.
    """
    if "wordnet" not in config.sources:
        return []
    needs_omw = bool(set(langs) & set(OMW_LEXICONS) - set(config.wordnets))
    projects, problems = [], []
    for name in names:
        if _is_omw(name) and not needs_omw:
            continue
        try:
            projects.append(_project(name, mirror, Path(config.dumps) / FOLDER))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return projects


def _is_omw(name: str) -> bool:
    return name.partition(":")[0] == "omw"


def _project(name: str, mirror: str, folder: Path) -> Project:
    url, sha256 = PINNED[name] if name in PINNED else (_indexed_url(name), None)
    file_name = url.rpartition("/")[2]
    if not file_name.endswith(_ENDINGS):
        raise UserError(f"--wordnets {name}: its archive {url} is none of {', '.join(_ENDINGS)}")
    path = safe_join(folder, file_name)
    url = f"{mirror.rstrip('/')}/{file_name}" if mirror else url
    record = safe_join(folder, f"{name.replace(':', '-')}.json")
    return Project(name=name, download=Download(url=url, path=path, sha256=sha256), record=record)


def _indexed_url(name: str) -> str:
    """Return the URL of a project's version in the index of the package wn."""
    wn = require("wn", extra="metadata")
    try:
        urls = wn.config.get_project_info(name)["resource_urls"]
    except wn.Error as error:
        raise UserError(
            f"--wordnets {name}: {error}; python -m wn projects lists the names; add the version (odenet:1.4)"
        ) from error
    return str(urls[0])


def unpack_project(project: Project) -> list[Json]:
    """Write the lexicons of a downloaded archive and then the record; returns the record of each lexicon.

    Raises Broken for an archive that is corrupt, too large, or without a lexicon of a known language.  One without a
    published checksum is removed then, so that the next call downloads it again.
    """
    archive, folder = project.download.path, project.record.parent
    lexicons = []
    try:
        for file in _iter_lexicon_files(archive):
            lexicons += _store(file, folder, OMW_LEXICONS if _is_omw(project.name) else None)
        if not lexicons:
            raise Broken("has no WN-LMF file of a known language")
    except (*_BROKEN_ARCHIVE, Broken) as error:
        if project.download.sha256 is None:
            archive.unlink()
        raise Broken(f"{archive}: {error}; run the same command again, or leave it out of --wordnets") from error
    record = {"url": project.download.url, "sha256": file_digest(archive, "sha256"), "lexicons": lexicons}
    write_json(project.record, record)
    return lexicons


def _iter_lexicon_files(archive: Path) -> Iterator[IO[bytes]]:
    """Yield each XML file of an archive, opened for reading."""
    with contextlib.ExitStack() as stack:
        opener = lzma.open if archive.name.endswith(".xz") else gzip.open
        plain = stack.enter_context(cast(IO[bytes], opener(archive, "rb")))
        limited = _Limited(plain)
        if ".tar." not in archive.name and not archive.name.endswith(".tgz"):
            yield cast(IO[bytes], limited)
            return
        tar = stack.enter_context(tarfile.open(fileobj=cast(IO[bytes], limited), mode="r|", tarinfo=_Member))
        for number, member in enumerate(tar, 1):
            if number > MAX_MEMBERS:
                raise Broken(f"has more than {MAX_MEMBERS:,} members")
            is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)  # not sparse: that unpacks to any size
            if is_file and member.name.endswith(".xml"):
                yield cast(IO[bytes], tar.extractfile(member))


class _Member(tarfile.TarInfo):
    """A member whose long names and extended headers, which tarfile reads into memory, are small."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > MAX_HEADER_BYTES:
            raise Broken(f"has a header of {self.size:,} bytes")
        return cast(tarfile.TarInfo, super()._proc_member(tar))  # type: ignore[misc]


class _Limited(io.RawIOBase):
    """What a decompressor gives, up to MAX_UNPACKED_BYTES: a small archive may unpack to any size."""

    def __init__(self, plain: IO[bytes]) -> None:
        self._plain, self._left = plain, MAX_UNPACKED_BYTES

    def read(self, size: int = -1) -> bytes:
        data = self._plain.read(min(size, CHUNK_BYTES) if size >= 0 else CHUNK_BYTES)
        self._left -= len(data)
        if self._left < 0:
            raise Broken(f"unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
        return data


def _store(file: IO[bytes], folder: Path, wanted: Mapping[str, str] | None) -> list[Json]:
    """Write one WN-LMF file to its language's folder; returns its record, or nothing if it is not wanted.

    wanted: the one lexicon to take of each language; None: every lexicon of a known language.
    """
    head = file.read(HEAD_BYTES)
    lexicon = _first_lexicon(head)
    lang = our_code(lexicon.get("language", ""))
    if lang is None or (wanted is not None and wanted.get(lang) != lexicon["id"]):
        return []
    file_name = f"{lexicon['id']}-{lexicon['version']}.xml.gz"
    if not is_safe_name(file_name) or "/" in file_name:
        raise Broken(f"has a lexicon of the name {file_name!r}, which is no file name")
    safe_join(folder, lang).mkdir(parents=True, exist_ok=True)
    aside = folder / f".lexicon.{os.getpid()}.tmp"
    try:
        _compress(head, file, aside)
        os.replace(aside, safe_join(folder, lang, file_name))
    finally:
        aside.unlink(missing_ok=True)
    origin = {key: lexicon.get(key, "") for key in ("id", "version", "label", "license")}
    return [{"lang": lang, **origin, "file": f"{lang}/{file_name}"}]


def _compress(head: bytes, file: IO[bytes], path: Path) -> None:
    """Write the whole file, gzipped; the same file gives the same bytes."""
    num_bytes = 0
    with open(path, "wb") as to, gzip.GzipFile(fileobj=to, mode="wb", compresslevel=1, filename="", mtime=0) as packed:
        chunk = head
        while chunk:
            num_bytes += len(chunk)
            if num_bytes > MAX_LEXICON_BYTES:
                raise Broken(f"has a lexicon of more than {MAX_LEXICON_BYTES:,} bytes")
            packed.write(chunk)
            chunk = file.read(CHUNK_BYTES)


class _LexiconReached(Exception):
    pass


def _first_lexicon(head: bytes) -> dict[str, str]:
    """Return the attributes of the first Lexicon of a WN-LMF file that begins with `head`; empty if there is none.

    Also empty for an id or a version that is no name.  Raises Broken for declared entities, which could fill memory.
    """
    lexicon: dict[str, str] = {}

    def refuse(*_: object) -> None:
        raise Broken("declares XML entities, which no WordNet needs; not read for safety")

    def start(element: str, attributes: dict[str, str]) -> None:
        if element in ("Lexicon", "LexiconExtension"):
            lexicon.update(attributes)
            raise _LexiconReached

    parser = expat.ParserCreate()
    parser.EntityDeclHandler, parser.StartElementHandler = refuse, start
    with contextlib.suppress(_LexiconReached, expat.ExpatError):
        parser.Parse(head, False)
    names = lexicon.get("id", ""), lexicon.get("version", "")
    return lexicon if _ID.fullmatch(names[0]) and _VERSION.fullmatch(names[1]) else {}
