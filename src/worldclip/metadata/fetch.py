"""Downloads of what a recipe's metadata need from dumps.wikimedia.org or a mirror of it.

A file has its final name only when it is whole: until then it is `<name>.part`, which the next call goes on with.
Dumps are checked against the SHA-1 sums that are published with them, page views by decompressing them to the end.
"""

from __future__ import annotations

import email.utils
import errno
import gzip
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from worldclip import languages
from worldclip.config import Recipe
from worldclip.errors import StageFailed, UserError
from worldclip.execute import say
from worldclip.formats import versions

WIKIMEDIA = "https://dumps.wikimedia.org"
DATABASE_OF = {"be_tarask": "be_x_old"}  # the one Wikipedia whose database kept the name of an older code
DAYS_APART = 10  # 37 days, ten apart, are a year of all seasons and weekdays
CHUNK_BYTES = 2**20
TIMEOUT_S = 60
MAX_TRIES = 6  # without a byte of progress
MAX_WAIT_S = 300
MAX_COPIES = 2  # of a file whose checksum is wrong
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416
TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES})

T = TypeVar("T")

_SUM_LINE = re.compile(r"^([0-9a-f]{40})\s+\*?(\S+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchConfig:
    """What to download, from where, and how politely."""

    langs: tuple[str, ...] = ()
    """Our codes; empty: the recipe's languages."""
    date: str = "latest"
    """Date of the dumps, YYYYMMDD, or `latest`."""
    base_url: str = WIKIMEDIA
    """The server or a mirror with the same paths."""
    pageview_days: int = 37
    """Days of page views, ten days apart, before the dumps' date; 0: none."""
    pageview_hours: int = 24
    """Hours of each of these days; an hour of all Wikipedias is about 50 MB."""
    connections: int = 2
    """Files at a time; Wikimedia asks for few."""
    contact: str = ""
    """Your address, for the operators of the server; goes into the User-Agent."""

    def problems(self) -> list[str]:
        known = {language.code for language in languages.all()}
        found = [
            f"--langs has {lang!r}, which is no language of the table; languages.csv lists them all"
            for lang in self.langs
            if lang not in known
        ]
        if self.date != "latest" and not re.fullmatch(r"20\d{6}", self.date):
            found.append(f"--date is {self.date!r}; it is the day of the dumps, YYYYMMDD, or latest")
        if not self.base_url.startswith(("http://", "https://")):
            found.append(f"--base-url is {self.base_url!r}; it is the address of a server, http(s)://...")
        if not 0 <= self.pageview_hours <= 24:
            found.append(f"--pageview-hours is {self.pageview_hours}; it counts hours of a day, 0 to 24")
        if self.pageview_days < 0:
            found.append(f"--pageview-days is {self.pageview_days}; it counts days and must not be negative")
        if self.connections < 1:
            found.append(f"--connections is {self.connections}; it counts files at a time and must be at least 1")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One file: where it comes from and goes to, and its SHA-1 where one is published."""

    url: str
    path: Path
    sha1: str | None = None


class Broken(RuntimeError):
    """A download that trying again will not mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Requests that say who asks, wait as they are told, and go on where they broke off."""

    user_agent: str
    pause: Callable[[float], None] = time.sleep

    def read(self, url: str) -> bytes:
        """A small file.  Raises Broken."""

        def attempt() -> bytes:
            with self._open(url, 0) as answer:
                body = answer.read()
                _check_length(len(body), 0, answer)
                return body

        return self._persist(url, attempt, lambda: 0)

    def fetch(self, download: Download) -> int:
        """Bring a file to its place, checked; returns its bytes.  Raises Broken, and OSError for the disk's errors."""
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
        raise Broken(f"{download.url}: {problem}, {MAX_COPIES} times; try another date or mirror (--base-url)")

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
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
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
            self.pause(min(max(wait_s, 2.0 ** (tries - 1)), MAX_WAIT_S))


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
    if header.isdigit():
        return float(header)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _problem_of(part: Path, download: Download) -> str:
    """What is wrong with a file that came in whole; empty where nothing is."""
    if download.sha1 is not None:
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, "sha1").hexdigest()
        return "" if found == download.sha1 else f"its SHA-1 is {found}, the published one {download.sha1}"
    if download.path.suffix != ".gz":
        return ""
    try:
        with gzip.open(part) as unpacked:
            while unpacked.read(CHUNK_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return f"it is no whole gzip file ({error})"
    return ""


# --- what to fetch ----------------------------------------------------------------------------------------------------


def fetch_metadata(
    recipe: Recipe, config: FetchConfig, *, pause: Callable[[float], None] = time.sleep
) -> dict[str, int]:
    """Bring the dumps and page views of the recipe's languages into its `metadata.dumps`; returns files and bytes.

    What is there already is not asked for again.  Raises UserError for mistakes, and at the end StageFailed naming what
    could not be had.
    """
    problems = config.problems()
    if not recipe.metadata.dumps:
        problems.append(
            'metadata.dumps is not set; it is the folder to fetch into, for example metadata.dumps = "dumps"'
        )
    if problems:
        raise UserError(problems)
    folder = Path(recipe.metadata.dumps)
    contact = f"; {config.contact}" if config.contact else ""
    client = Client(user_agent=f"worldclip/{versions()['worldclip']} (dumps for word lists{contact})", pause=pause)
    downloads, failures = plan(client, folder, recipe, config)
    todo = [download for download in downloads if not download.path.exists()]
    say("fetch", f"{len(todo):,} files to fetch, {len(downloads) - len(todo):,} there already")
    fetched = _fetch_all(client, todo, config.connections, failures)
    if failures:
        raise StageFailed("fetch metadata", failures)
    return {"files": len(fetched), "bytes": sum(fetched), "there_already": len(downloads) - len(todo)}


def _fetch_all(client: Client, todo: Sequence[Download], connections: int, failures: dict[str, str]) -> list[int]:
    """Bytes of each file fetched; what failed is added to `failures`, and the others go on."""
    fetched = []
    with ThreadPoolExecutor(connections) as pool:
        futures = {download.path.name: pool.submit(client.fetch, download) for download in todo}
        for name, future in futures.items():
            try:
                fetched.append(future.result())
                say("fetch", f"{name}, {fetched[-1]:,} bytes")
            except Broken as error:
                failures[name] = str(error)
            except OSError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return fetched


def plan(client: Client, folder: Path, recipe: Recipe, config: FetchConfig) -> tuple[list[Download], dict[str, str]]:
    """The files that the recipe needs, and for each Wikipedia without a list of files the reason."""
    codes = config.langs or recipe.languages.run_codes
    wikis = sorted({wiki for code in codes for wiki in languages.wikipedias(code)})
    downloads: list[Download] = []
    failures: dict[str, str] = {}
    days: list[str] = []
    if {"unigram", "bigram", "title"} & set(recipe.metadata.sources):
        for wiki in wikis:
            try:
                found, day = _plan_wiki(client, folder / wiki, wiki, config)
            except Broken as error:
                failures[f"{wiki}wiki"] = str(error)
                continue
            downloads += found
            days.append(day)
    if "title" in recipe.metadata.sources and days:
        downloads += plan_pageviews(folder / "pageviews", max(days), config)
    return downloads, failures


def _plan_wiki(client: Client, folder: Path, wiki: str, config: FetchConfig) -> tuple[list[Download], str]:
    """The articles of a Wikipedia and the names of its namespaces; and the day of the dump."""
    database = f"{DATABASE_OF.get(wiki, wiki)}wiki"
    place = f"{config.base_url.rstrip('/')}/{database}"
    listing = client.read(f"{place}/{config.date}/{database}-{config.date}-sha1sums.txt").decode("utf-8", "replace")
    sums = {found[2]: found[1] for line in listing.splitlines() if (found := _SUM_LINE.match(line.strip()))}
    parts = [name for name in sums if re.fullmatch(rf"{database}-\d{{8}}-pages-articles\d+\.xml-p\d+p\d+\.bz2", name)]
    whole = [name for name in sums if re.fullmatch(rf"{database}-\d{{8}}-pages-articles\.xml\.bz2", name)]
    names = [name for name in sums if name.endswith("-siteinfo-namespaces.json.gz")]
    if not (parts or whole):
        raise Broken(f"{place}/{config.date}: its sums name no pages-articles; try another --date")
    # In parts, each a shard, where the dump has them.
    chosen = sorted(parts or whole)
    day = chosen[0].split("-")[1]
    return [
        Download(url=f"{place}/{day}/{name}", path=folder / name, sha1=sums[name]) for name in [*chosen, *names]
    ], day


def plan_pageviews(folder: Path, day: str, config: FetchConfig) -> list[Download]:
    """Hours of days before `day` (YYYYMMDD), DAYS_APART from each other; hours spread evenly over each day."""
    last = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    found = []
    for k in range(1, config.pageview_days + 1):
        of_day = last - timedelta(days=DAYS_APART * k)
        for n in range(config.pageview_hours):
            name = f"pageviews-{of_day:%Y%m%d}-{24 * n // config.pageview_hours:02}0000.gz"
            url = f"{config.base_url.rstrip('/')}/other/pageviews/{of_day:%Y}/{of_day:%Y-%m}/{name}"
            found.append(Download(url=url, path=folder / name))
    return found
