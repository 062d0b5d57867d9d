"""`worldclip fetch metadata`: download a recipe's dumps and page views.

Dumps are checked against the SHA-1 sums published with them; page views, which have none, by decompressing them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from worldclip.core.artifacts import versions
from worldclip.core.console import say
from worldclip.core.download import RETRY, Broken, Client, Download
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.job import Run
from worldclip.core.local_path import url_problem
from worldclip.core.safe_path import safe_join
from worldclip.core.settings import Config
from worldclip.language.config import LanguagesConfig
from worldclip.language.table import Languages, how_to_know
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import needs_text, needs_views
from worldclip.metadata.lists import find_lists

WIKIMEDIA = "https://dumps.wikimedia.org"
DATABASE_OF = {"be_tarask": "be_x_old"}  # the only Wikipedia whose database is named after an older code
CONNECTIONS = 2  # files downloaded in parallel; Wikimedia asks for few
MAX_DAYS = 400  # more go back to before page views were counted (2015)
DAYS_APART = 10  # 37 days ten days apart cover a year, with all seasons and weekdays

_SUM_LINE = re.compile(r"(?P<sha1>[0-9a-f]{40})\s+\*?(?P<name>\S+)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchConfig(Config):
    """The downloads: files, server, pauses between requests."""

    langs: tuple[str, ...] = ()
    """Our language codes; empty: the recipe's languages."""
    date: str = "latest"
    """Date of the dumps, YYYYMMDD, or `latest`."""
    base_url: str = WIKIMEDIA
    """The server, or a mirror with the same paths."""
    pageview_days: int = 37
    """Number of days of page views, ten days apart, before the date of the dumps; 0: none."""
    pageview_hours: int = 24
    """Number of hours of each of these days; one hour of all Wikipedias is about 50 MB."""
    contact: str = ""
    """Your e-mail or web address for the operators of the server; part of the User-Agent."""

    def problems_with(self, languages: Languages) -> list[str]:
        """Return what is wrong with these options, given the recipe's languages."""
        unknown = [lang for lang in self.langs if lang not in languages.by_code()]
        problems = [f"--langs has {lang!r}: unknown language; {how_to_know(lang)}" for lang in unknown]
        if self.date != "latest" and not re.fullmatch(r"20\d{6}", self.date):
            problems.append(f"--date {self.date!r}: must be YYYYMMDD or latest")
        if not self.base_url.startswith(("http://", "https://")):
            problems.append(f"--base-url {self.base_url!r}: must begin with http:// or https://")
        if not 0 <= self.pageview_hours <= 24:
            problems.append(f"--pageview-hours {self.pageview_hours}: must be between 0 and 24")
        if not 0 <= self.pageview_days <= MAX_DAYS:
            problems.append(f"--pageview-days {self.pageview_days}: must be between 0 and {MAX_DAYS}")
        return problems


def fetch_metadata(run: Run, config: FetchConfig, *, pause: Callable[[float], object] | None = None) -> dict[str, int]:
    """Download dumps and page views of the recipe's languages into `metadata.dumps`; returns files and bytes.

    Files that exist are skipped.  Raises UserError for invalid options, and at the end StageFailed naming the files
    that could not be downloaded.
    """
    problems = config.problems_with(run.section(LanguagesConfig).table)
    metadata = run.section(MetadataConfig)
    if not metadata.dumps:
        problems.append('metadata.dumps is not set; set it to the folder to download to, e.g. metadata.dumps = "dumps"')
    problem = url_problem(metadata.dumps, "metadata.dumps =")
    if problem:
        problems.append(problem)
    if problems:
        raise UserError(problems)
    folder = Path(metadata.dumps)
    contact = f"; {config.contact}" if config.contact else ""
    client = Client(user_agent=f"worldclip/{versions()['worldclip']} (dumps for word lists{contact})", pause=pause)
    downloads, failures = plan(client, folder, run, config)
    # The stage metadata adds up all page views that are there
    views = folder / "pageviews"
    planned = {download.path for download in downloads if download.path.parent == views}
    others = sorted(path.name for path in views.glob("*.gz") if path not in planned)
    if planned and others:
        raise UserError(
            f"{views} holds {len(others):,} files of another date or other hours ({others[0]}, ...), whose views "
            "would count too; move them away, or give --date, --pageview-days and --pageview-hours as before"
        )
    todo = [download for download in downloads if not download.path.exists()]
    say("fetch", f"{len(todo):,} files to download, {len(downloads) - len(todo):,} exist already")
    fetched = _fetch_all(client, todo, failures)
    if failures:
        raise StageFailed("fetch metadata", failures, RETRY)
    return {"files": len(fetched), "bytes": sum(fetched), "there_already": len(downloads) - len(todo)}


def _fetch_all(client: Client, todo: Sequence[Download], failures: dict[str, str]) -> list[int]:
    """Return the bytes of each downloaded file; a failure is added to `failures`, and the others continue.

    Ctrl-C and a full disk stop all downloads; partial files stay and are resumed by the next call.
    """
    fetched = []
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = {download.path.name: pool.submit(client.fetch, download) for download in todo}
        try:
            for name, future in futures.items():
                try:
                    fetched.append(future.result())
                    say("fetch", f"{name}, {fetched[-1]:,} bytes")
                except Broken as error:
                    failures[name] = str(error)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            client.is_stopped.set()
            raise
    return fetched


def plan(client: Client, folder: Path, run: Run, config: FetchConfig) -> tuple[list[Download], dict[str, str]]:
    """Return the files that the recipe needs, and the reason for each Wikipedia whose list of files is missing."""
    from worldclip.metadata.plan import label_scheme, run_codes

    metadata = run.section(MetadataConfig)
    wants_text = needs_text(metadata)
    wants_titles = needs_views(metadata)
    downloads: list[Download] = []
    failures: dict[str, str] = {}
    days: list[str] = []
    if not wants_text and not wants_titles:
        return downloads, failures
    section = run.section(LanguagesConfig)
    codes = config.langs or sorted({*run_codes(run)} - {*find_lists(metadata)})  # those without a whole list
    scheme = label_scheme(section.lid_model, codes)
    wikis: set[str] = set()
    for code in codes:
        wikis.update(section.table.wikipedias(code, scheme))
    for language in section.table.added:
        wikis -= set(language.wikipedia) & set(metadata.wikipedia)  # files of your own, which Wikimedia does not have
    for wiki in sorted(wikis):
        try:
            articles, names, day = _plan_wiki(client, safe_join(folder, wiki), wiki, config)
        except Broken as error:
            failures[f"{wiki}wiki"] = str(error)
            continue
        if wants_text and wiki not in metadata.wikipedia:
            downloads += articles
        if wants_titles:
            downloads += names
        days.append(day)
    if wants_titles and days:
        downloads += plan_pageviews(folder / "pageviews", max(days), config)
    return downloads, failures


def _plan_wiki(
    client: Client, folder: Path, wiki: str, config: FetchConfig
) -> tuple[list[Download], list[Download], str]:
    """Return (downloads of the articles, of the names of the namespaces, day of the dump) of a Wikipedia."""
    database = f"{DATABASE_OF.get(wiki, wiki)}wiki"
    base = f"{config.base_url.rstrip('/')}/{database}"
    listing, _ = client.read_page(f"{base}/{config.date}/{database}-{config.date}-sha1sums.txt")
    sums: dict[str, str] = {}
    for line in listing.decode("utf-8", "replace").splitlines():
        match = _SUM_LINE.match(line.strip())
        if match is not None:
            sums[match["name"]] = match["sha1"]

    def downloads(rest: str) -> list[Download]:
        files = []
        for name in sorted(sums):
            match = re.fullmatch(rf"{database}-(\d{{8}})-{rest}", name)
            if match:
                url = f"{base}/{match[1]}/{name}"
                files.append(Download(url=url, path=safe_join(folder, name), sha1=sums[name]))
        return files

    # Big dumps come in parts, each of which is a shard
    articles = downloads(r"pages-articles\d+\.xml-p\d+p\d+\.bz2") or downloads(r"pages-articles\.xml\.bz2")
    if not articles:
        raise Broken(f"{base}/{config.date}: no pages-articles in its list of sums; try another --date")
    day = articles[0].path.name.split("-")[1]
    return articles, downloads(r"siteinfo-namespaces\.json\.gz"), day


def plan_pageviews(folder: Path, dump_day: str, config: FetchConfig) -> list[Download]:
    """Return hours spread evenly over each of the days before `dump_day` (YYYYMMDD) that are DAYS_APART apart."""
    last = datetime.strptime(dump_day, "%Y%m%d").date()
    downloads = []
    for k in range(1, config.pageview_days + 1):
        day = last - timedelta(days=DAYS_APART * k)
        for n in range(config.pageview_hours):
            name = f"pageviews-{day:%Y%m%d}-{24 * n // config.pageview_hours:02}0000.gz"
            url = f"{config.base_url.rstrip('/')}/other/pageviews/{day:%Y}/{day:%Y-%m}/{name}"
            downloads.append(Download(url=url, path=safe_join(folder, name)))
    return downloads
