"""Downloads of what a recipe's metadata need from dumps.wikimedia.org or a mirror of it.

Dumps are checked against the SHA-1 sums that are published with them, page views by decompressing them to the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from worldclip.config import Recipe
from worldclip.core.artifacts import versions
from worldclip.core.console import say
from worldclip.core.download import Broken, Client, Download
from worldclip.core.errors import StageFailed, UserError
from worldclip.language import table as languages
from worldclip.metadata.sources.pack import open_pack

WIKIMEDIA = "https://dumps.wikimedia.org"
DATABASE_OF = {"be_tarask": "be_x_old"}  # the one Wikipedia whose database kept the name of an older code
DAYS_APART = 10  # 37 days, ten apart, are a year of all seasons and weekdays

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
        known = {language.code for language in languages.all_languages()}
        found = [
            f"--langs has {lang!r}, which is no language of the table; language/table.csv lists them all"
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


def fetch_metadata(
    recipe: Recipe, config: FetchConfig, *, pause: Callable[[float], object] | None = None
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
        raise StageFailed("fetch metadata", failures, "the same command tries these again, and only these")
    return {"files": len(fetched), "bytes": sum(fetched), "there_already": len(downloads) - len(todo)}


def _fetch_all(client: Client, todo: Sequence[Download], connections: int, failures: dict[str, str]) -> list[int]:
    """Bytes of each file fetched; what failed is added to `failures`, and the others go on.

    Ctrl-C and a full disk stop all of them: what is half there stays for the next call.
    """
    fetched = []
    with ThreadPoolExecutor(connections) as pool:
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
            client.stop()
            raise
    return fetched


def plan(client: Client, folder: Path, recipe: Recipe, config: FetchConfig) -> tuple[list[Download], dict[str, str]]:
    """The files that the recipe needs, and for each Wikipedia without a list of files the reason."""
    metadata = recipe.metadata
    wants_text, wants_titles = bool({"unigram", "bigram"} & set(metadata.sources)), "title" in metadata.sources
    downloads: list[Download] = []
    failures: dict[str, str] = {}
    days: list[str] = []
    for wiki in _wikis(recipe, config.langs) if wants_text or wants_titles else ():
        try:
            articles, names, day = _plan_wiki(client, folder / wiki, wiki, config)
        except Broken as error:
            failures[f"{wiki}wiki"] = str(error)
            continue
        downloads += articles if wants_text and wiki not in metadata.wikipedia else []
        downloads += names if wants_titles else []
        days.append(day)
    if wants_titles and days:
        downloads += plan_pageviews(folder / "pageviews", max(days), config)
    return downloads, failures


def _wikis(recipe: Recipe, langs: Sequence[str]) -> list[str]:
    """The Wikipedias of `langs`, or else of all languages of the recipe whose list is not in its pack."""
    from worldclip.metadata.stage import label_scheme

    packed = open_pack(Path(recipe.metadata.pack)).lists if recipe.metadata.pack else {}
    codes = langs or [code for code in recipe.languages.run_codes if code not in packed]
    scheme = label_scheme(recipe.languages.lid_model, codes)
    return sorted({wiki for code in codes for wiki in languages.wikipedias(code, scheme)})


def _plan_wiki(
    client: Client, folder: Path, wiki: str, config: FetchConfig
) -> tuple[list[Download], list[Download], str]:
    """The articles of a Wikipedia, the names of its namespaces, and the day of the dump."""
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
    articles, about = (
        [Download(url=f"{place}/{day}/{name}", path=folder / name, sha1=sums[name]) for name in of_kind]
        for of_kind in (chosen, names)
    )
    return articles, about, day


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
