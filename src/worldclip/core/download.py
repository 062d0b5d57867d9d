"""Download files: complete and verified, or not there at all.

A file gets its final name once it is complete and its checksum is right.  Until then it is `<name>.part`, which
the next call resumes.  Without a published checksum it is downloaded from its start: the server may have another
version now.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

CHUNK_BYTES = 2**20
TIMEOUT_S = 60
RETRY = "run the same command: only what failed is downloaded again"
MAX_TRIES = 6  # without a byte of progress
MAX_WAIT_S = 600  # longest wait that a server may ask for; above it the call fails and a later one resumes
MAX_COPIES = 2  # downloads of a file with a wrong checksum
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One file: its URL, its path, and its checksum if one is published."""

    url: str
    path: Path
    sha1: str | None = None
    sha256: str | None = None
    git_oid: str | None = None
    """SHA-1 of the file as a git blob, which the Hugging Face hub publishes for small files."""


class Broken(RuntimeError):
    """A download that failed for good; the message says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Sends requests with a user agent, waits as servers ask, and resumes interrupted downloads."""

    user_agent: str
    pause: Callable[[float], object] | None = None
    """Function that waits some seconds; None: wait, but no longer than until `stop`."""
    is_stopped: threading.Event = field(default_factory=threading.Event)
    """Set it to stop the downloads of other threads through this client, at their next chunk."""

    def read_page(self, url: str) -> tuple[bytes, str]:
        """Return a small file and its Link header (the next page of a listing).  Raises Broken."""

        def attempt() -> tuple[bytes, str]:
            with self._open(url, 0) as answer:
                body = answer.read()
                _check_length(len(body), 0, answer)
                return body, answer.headers.get("Link", "")

        return self._retry(url, attempt, lambda: 0)

    def fetch(self, download: Download) -> int:
        """Download a file and verify it; returns its size.  Raises Broken, and OSError for errors of the disk."""
        part = download.path.with_name(f"{download.path.name}.part")
        problem = ""
        try:
            download.path.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(MAX_COPIES):
                self._retry(download.url, lambda: self._resume(download, part), lambda: _size(part))
                problem = _problem_of(part, download)
                if not problem:
                    os.replace(part, download.path)
                    return download.path.stat().st_size
                part.unlink()
        except OSError as error:
            error.filename = error.filename or str(download.path)  # a failed write does not say where the disk is full
            raise
        raise Broken(f"{download.url}: {problem}, {MAX_COPIES} times; try again later, or another mirror")

    def _open(self, url: str, start: int) -> http.client.HTTPResponse:
        """Ask for a file from byte `start` on."""
        if not url.startswith(("http://", "https://")):  # urllib opens file: too, and a listing may name it
            raise Broken(f"{url}: not an address of the web; only http:// and https:// are fetched")
        headers = {"User-Agent": self.user_agent}
        if start:
            headers["Range"] = f"bytes={start}-"
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
        return answer

    def _resume(self, download: Download, part: Path) -> None:
        """Append the missing bytes to `part`; a server without support for ranges sends all of them again."""
        url = download.url
        if download.sha1 is None and download.sha256 is None and download.git_oid is None:
            part.unlink(missing_ok=True)
        start = _size(part)
        try:
            answer = self._open(url, start)
        except urllib.error.HTTPError as error:
            if error.code != RANGE_NOT_SATISFIABLE:
                raise
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # it is complete
            part.unlink()
            raise ConnectionError("the partial file on disk does not match the server's file") from error
        with answer:
            mode = "ab"
            if answer.status != PARTIAL_CONTENT:
                mode = "wb"
                start = 0
            with open(part, mode) as file:
                # read1 returns what has arrived, so that `stop` works on a slow connection.
                while chunk := answer.read1(CHUNK_BYTES):
                    file.write(chunk)
                    if self.is_stopped.is_set():
                        raise Broken(f"{url}: stopped; the next call resumes")
            _check_length(_size(part) - start, start, answer)

    def _retry(self, url: str, attempt: Callable[[], T], progress: Callable[[], int]) -> T:
        """Call `attempt` until it succeeds; gives up after MAX_TRIES during which `progress` did not grow.

        Waits 1, 2, 4, ... seconds, or longer if the server asks to.
        """
        tries = 0
        reached = progress()
        while True:
            wait_s = 0.0
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED:
                    raise Broken(f"{url}: the server answers {error.code} {error.reason}") from error
                header = error.headers.get("Retry-After", "")
                if header.isdecimal():  # else a date
                    wait_s = float(header)
                reason = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                reason = str(error) or type(error).__name__
            if progress() > reached:
                tries = 0
                reached = progress()
            tries += 1
            if tries == MAX_TRIES:
                raise Broken(f"{url}: gave up after {MAX_TRIES} tries without progress; last error: {reason}")
            if wait_s > MAX_WAIT_S:
                raise Broken(f"{url}: the server answers {reason} and asks to wait {wait_s:,.0f} s; try again then")
            pause = self.is_stopped.wait if self.pause is None else self.pause
            pause(max(wait_s, 2.0 ** (tries - 1)))
            if self.is_stopped.is_set():
                raise Broken(f"{url}: stopped; the next call resumes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_length(num_bytes: int, start: int, answer: http.client.HTTPResponse) -> None:
    expected = answer.headers.get("Content-Length")
    if expected is not None and num_bytes != int(expected):
        raise ConnectionError(f"the connection broke after {start + num_bytes:,} of {start + int(expected):,} bytes")


def _problem_of(part: Path, download: Download) -> str:
    """Return what is wrong with a complete file; empty if nothing is."""
    for kind, name, published in (("sha1", "SHA-1", download.sha1), ("sha256", "SHA-256", download.sha256)):
        if published is None:
            continue
        actual = file_digest(part, kind)
        if actual != published:
            return f"its {name} is {actual}, the published one {published}"
    if download.git_oid is not None:
        actual = hashlib.sha1(f"blob {part.stat().st_size}\0".encode() + part.read_bytes()).hexdigest()
        if actual == download.git_oid:
            return ""
        return f"its git blob is {actual}, the published one {download.git_oid}"
    if download.path.suffix != ".gz" or download.sha1 is not None or download.sha256 is not None:
        return ""
    try:
        with gzip.open(part) as unpacked:
            while unpacked.read(CHUNK_BYTES):
                continue
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is not a complete gzip file ({error})"
    return ""


def file_digest(path: Path, kind: str) -> str:
    """Return the hex digits of a file's hash; kind: its name in hashlib."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
