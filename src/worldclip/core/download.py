"""Files from servers: whole and checked, or not there at all.

A file has its final name only when it is whole and right: until then it is `<name>.part`, which the next call goes on
with.
"""

from __future__ import annotations

import email.utils
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
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

CHUNK_BYTES = 2**20
TIMEOUT_S = 60
MAX_TRIES = 6  # without a byte of progress
MAX_WAIT_S = 600  # a server that asks for more is left alone until the next call
MAX_COPIES = 2  # of a file whose checksum is wrong
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One file: where it comes from and goes to, and its checksum where one is published."""

    url: str
    path: Path
    sha1: str | None = None
    sha256: str | None = None
    git_oid: str | None = None
    """SHA-1 of the file as a git blob, which Hugging Face's hub publishes of small files."""


class Broken(RuntimeError):
    """A download that trying again will not mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Requests that say who asks, wait as they are told, and go on where they broke off."""

    user_agent: str
    pause: Callable[[float], object] | None = None
    """Waits some seconds; None: until `stop`."""
    is_stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End what other threads fetch through this client, at their next byte."""
        self.is_stopped.set()

    def read(self, url: str) -> bytes:
        """A small file.  Raises Broken."""
        return self.read_page(url)[0]

    def read_page(self, url: str) -> tuple[bytes, str]:
        """A small file, and its Link header: where the next page of a listing is.  Raises Broken."""

        def attempt() -> tuple[bytes, str]:
            with self._open(url, 0) as answer:
                body = answer.read()
                _check_length(len(body), 0, answer)
                return body, answer.headers.get("Link", "")

        return self._persist(url, attempt, lambda: 0)

    def fetch(self, download: Download) -> int:
        """Bring a file to its place, checked; returns its bytes.  Raises Broken, and OSError for the disk's errors."""
        try:
            return self._fetch(download)
        except OSError as error:
            error.filename = error.filename or str(download.path)  # a write does not say where the disk is full
            raise

    def _fetch(self, download: Download) -> int:
        part = download.path.with_name(f"{download.path.name}.part")
        download.path.parent.mkdir(parents=True, exist_ok=True)
        problem = ""
        for _ in range(MAX_COPIES):
            self._persist(download.url, lambda: self._go_on(download.url, part), lambda: _size(part))
            problem = _problem_of(part, download)
            if not problem:
                os.replace(part, download.path)
                return download.path.stat().st_size
            part.unlink()
        raise Broken(f"{download.url}: {problem}, {MAX_COPIES} times; try again later, or another mirror")

    def _open(self, url: str, start: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": self.user_agent} | ({"Range": f"bytes={start}-"} if start else {})
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
        return answer

    def _go_on(self, url: str, part: Path) -> None:
        """Append to `part` what it lacks; a server that does not know ranges sends all of it again."""
        start = _size(part)
        try:
            answer = self._open(url, start)
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
                while chunk := answer.read1(CHUNK_BYTES):  # what is there, so that a slow line can be stopped
                    file.write(chunk)
                    if self.is_stopped.is_set():
                        raise Broken(f"{url}: stopped; the next call goes on")
            _check_length(_size(part) - start, start, answer)

    def _persist(self, url: str, attempt: Callable[[], T], progress: Callable[[], int]) -> T:
        """`attempt` until it succeeds; gives up after MAX_TRIES in which `progress` did not grow."""
        tries, reached = 0, progress()
        while True:
            wait_s = 0.0
            try:
                return attempt()
            except urllib.error.HTTPError as error:
                if error.code not in TRY_AGAIN:
                    raise Broken(f"{url}: the server answers {error.code} {error.reason}") from error
                wait_s, reason = _retry_after(error.headers.get("Retry-After")), f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                reason = str(error) or type(error).__name__
            tries, reached = (0, progress()) if progress() > reached else (tries, reached)
            tries += 1
            if tries == MAX_TRIES:
                raise Broken(f"{url}: gave up after {MAX_TRIES} tries without progress; the last said: {reason}")
            if wait_s > MAX_WAIT_S:
                raise Broken(f"{url}: the server answers {reason} and asks to wait {wait_s:,.0f} s; try again then")
            pause = self.is_stopped.wait if self.pause is None else self.pause
            pause(max(wait_s, 2.0 ** (tries - 1)))
            if self.is_stopped.is_set():
                raise Broken(f"{url}: stopped; the next call goes on")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_length(got: int, start: int, answer: http.client.HTTPResponse) -> None:
    promised = answer.headers.get("Content-Length")
    if promised is not None and got != int(promised):
        raise ConnectionError(f"the connection broke after {start + got:,} of {start + int(promised):,} bytes")


def _retry_after(header: str | None) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    if header is None:
        return 0.0
    if header.isdecimal():
        return float(header)
    try:
        then = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _problem_of(part: Path, download: Download) -> str:
    """What is wrong with a file that came in whole; empty where nothing is."""
    for kind, published in (("sha1", download.sha1), ("sha256", download.sha256)):
        if published is not None and (found := file_digest(part, kind)) != published:
            return f"its {kind.upper().replace('SHA', 'SHA-')} is {found}, the published one {published}"
    if download.git_oid is not None:
        found = hashlib.sha1(f"blob {part.stat().st_size}\0".encode() + part.read_bytes()).hexdigest()
        return "" if found == download.git_oid else f"its git blob is {found}, the published one {download.git_oid}"
    if download.path.suffix != ".gz" or download.sha1 is not None or download.sha256 is not None:
        return ""
    try:
        with gzip.open(part) as unpacked:
            while unpacked.read(CHUNK_BYTES):
                continue
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is no whole gzip file ({error})"
    return ""


def file_digest(path: Path, kind: str) -> str:
    """Hex digits of a file's hash; kind as hashlib names it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
