"""Dumps and page-view files -> counts beside the lists, each file a shard; and from them a language's candidates.

RUN/metadata/ngrams/<Wikipedia>/<file>/     runs of a Counter, kept so that a new cap or language recounts nothing
RUN/metadata/views/<file>/                  a tally of titles
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import digest, fingerprint
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.execute import Executor, Report, Shard, usable_cores
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import segment as tokens
from worldclip.language import table as languages
from worldclip.metadata import ngrams
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.wikipedia import read_articles, read_xml_namespaces

NGRAMS, VIEWS = "ngrams", "views"
NGRAMS_DONE, VIEWS_DONE = "done/ngrams", "done/views"
ENGLISH = "en"
DUMP_FORMATS = (".xml", ".json", ".parquet")
SITEINFO = "*siteinfo-namespaces.json*"
# Day, kind, number of the part: `swwiki-20240101-pages-articles.xml.bz2`, `...-pages-articles1.xml-p1p9.bz2`.
_DUMP_NAME = re.compile(r"\w+wiki-(\d{8}|latest)-(pages-articles-multistream|pages-articles|cirrussearch-content)(\d*)")
TEXT_LICENCE = "CC BY-SA 4.0 (text of Wikipedia; older revisions also GFDL)"
VIEWS_LICENCE = "CC0 1.0 (page views of Wikimedia)"

Candidates = Iterator[tuple[str, float | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The files of the Wikipedias that the run's languages are made of."""

    wikis: dict[str, tuple[str, ...]]
    """For each of the run's languages the Wikipedias, in the table's order, that have files of text or of views."""
    texts: dict[str, list[Shard]]
    """Files of each Wikipedia's text, shard names `<Wikipedia>/<file>`."""
    views: list[Shard]
    """Page-view files."""
    siteinfo: dict[str, Path] = field(default_factory=dict)
    """The file of each Wikipedia that names its namespaces, where there is one: the site's own list, else a dump."""


def find_sources(config: MetadataConfig, codes: Sequence[str], scheme: languages.Scheme) -> Sources:
    """What the recipe's paths hold for the languages `codes`; scheme: of LID labels, which decides `other`."""
    if config.dumps and not Path(config.dumps).is_dir():
        raise UserError(f"metadata.dumps is {config.dumps!r}, which is no folder; run: worldclip fetch metadata RECIPE")
    wikis = {code: languages.wikipedias(code, scheme) for code in codes}
    wants_text, wants_views = bool({"unigram", "bigram"} & set(config.sources)), "title" in config.sources
    views = [_shard(path.name, path) for path in _view_files(config)] if wants_views else []
    texts: dict[str, list[Shard]] = {}
    siteinfo: dict[str, Path] = {}
    twice: list[str] = []
    for wiki in sorted({wiki for of_lang in wikis.values() for wiki in of_lang}):
        files = _text_files(config, wiki)
        if files and wants_text:
            _refuse_equal_names(wiki, files)
            twice += _given_twice(wiki, files)
            texts[wiki] = [_shard(f"{wiki}/{path.name}", path) for path in files]
        folders = [files[0].parent] if files else []
        folders += [Path(config.dumps) / wiki] if config.dumps else []
        for path in [path for folder in folders for path in sorted(folder.glob(SITEINFO))][:1]:
            siteinfo[wiki] = path
        for path in [path for path in files if ".xml" in path.name][:1]:
            siteinfo.setdefault(wiki, path)
    if twice:
        raise UserError(twice)
    return Sources(
        wikis={code: tuple(wiki for wiki in of_lang if wiki in texts or views) for code, of_lang in wikis.items()},
        texts=texts,
        views=views,
        siteinfo=siteinfo,
    )


def _text_files(config: MetadataConfig, wiki: str) -> list[Path]:
    if wiki in config.wikipedia:
        return [Path(path) for path in sorted(glob.glob(config.wikipedia[wiki]))]
    if not config.dumps:
        return []
    files = sorted((Path(config.dumps) / wiki).glob("*"))
    return [path for path in files if _is_dump(path.name) and path.is_file()]


def _refuse_equal_names(wiki: str, files: Sequence[Path]) -> None:
    names = [path.name for path in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"metadata.wikipedia.{wiki} matches {', '.join(twice)} in more than one folder; names say which file was"
            " counted, so rename one of each or give another pattern"
        )


def _given_twice(wiki: str, files: Sequence[Path]) -> list[str]:
    """A problem where the names of files say that they hold the same articles: two days, or two forms of a dump."""
    first_of: dict[tuple[str, str, bool], Path] = {}
    for path in files:
        if (found := _DUMP_NAME.match(path.name)) is not None:
            first_of.setdefault((found[1], found[2], bool(found[3])), path)
    if len(first_of) < 2:
        return []
    named = ", ".join(str(path) for path in first_of.values())
    return [f"{named}: several dumps of the Wikipedia {wiki}, whose articles would count twice; keep one of them"]


def _is_dump(name: str) -> bool:
    """Of the files in a folder of dumps, those with articles: no index, no list of namespaces, nothing half fetched."""
    is_other = name.startswith(".") or name.endswith(".part") or "siteinfo" in name or "-index" in name
    return not is_other and any(form in name for form in DUMP_FORMATS)


def _view_files(config: MetadataConfig) -> list[Path]:
    place = config.pageviews or (str(Path(config.dumps) / "pageviews") if config.dumps else "")
    if not place:
        return []
    found = Path(place).glob("*.gz") if Path(place).is_dir() else map(Path, glob.glob(place))
    return sorted(path for path in found if not path.name.startswith("."))


def _shard(name: str, path: Path) -> Shard:
    return Shard(name=name, path=str(path), fingerprint=_fingerprint(path))


def _fingerprint(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return _fingerprint_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _fingerprint_of(path: Path, size: int, mtime_ns: int) -> dict[str, Any]:
    """Hashed once in a process: a year's page views are a thousand files, and the stage asks for them several times."""
    return fingerprint(path, path.parent)


def known_by(lang: str, sources: Sources) -> dict[str, Any]:
    """What the candidates of a language hang on: fingerprints of its files, and one digest of all page views."""
    known: dict[str, Any] = {}
    wikis = sources.wikis.get(lang, ())
    texts = {wiki: [shard.fingerprint for shard in sources.texts[wiki]] for wiki in wikis if wiki in sources.texts}
    if texts:
        known["wikipedia"] = {"files": texts, "icu": tokens.icu_version()}
    if wikis and sources.views:
        known["title"] = {
            "files": len(sources.views),
            "digest": digest([shard.fingerprint for shard in sources.views]),
            "siteinfo": [_fingerprint(sources.siteinfo[wiki]) for wiki in wikis if wiki in sources.siteinfo],
        }
    return known


# --- counting ---------------------------------------------------------------------------------------------------------


def count_files(sources: Sources, config: MetadataConfig, folder: Path, executor: Executor) -> dict[str, str]:
    """Count every file that is not counted yet.  Returns for each Wikipedia that lacks counts the reason why."""
    texts = [shard for shards in sources.texts.values() for shard in shards]
    key: dict[str, Any] = {"icu": tokens.icu_version(), "unicode": UNICODE_VERSION}
    threads = max(1, usable_cores() // max(1, len(texts)))  # a single file is decompressed on all cores where it can be
    count = functools.partial(count_text, folder=folder, threads=threads)
    failures = _map(executor, count, texts, NGRAMS, folder / NGRAMS_DONE, key)
    uncounted = {name.partition("/")[0]: reason for name, reason in reversed(failures.items())}
    wikis = sorted({wiki for of_lang in sources.wikis.values() for wiki in of_lang})
    min_line_views = {ENGLISH: config.english_min_line_views} if config.english_rule == "v1" else {}
    tally = functools.partial(tally_file, folder=folder, wikis=wikis, min_line_views=min_line_views)
    key = {"wikis": wikis, "min_line_views": min_line_views, "version": titles.VIEWS_VERSION}
    failures = _map(executor, tally, sources.views, VIEWS, folder / VIEWS_DONE, key)
    for reason in failures.values():
        uncounted = {**dict.fromkeys(wikis, reason), **uncounted}
    return uncounted


def _map(
    executor: Executor, fn: Callable[[Shard], Report], shards: Sequence[Shard], label: str, done_dir: Path, key: Any
) -> dict[str, str]:
    """The failures of a map: what hangs on a failed file fails later, and the rest is done first."""
    if not shards:
        return {}
    try:
        executor.map(fn, shards, label=label, done_dir=done_dir, key=key)
    except StageFailed as error:
        return error.failures
    return {}


def count_text(shard: Shard, *, folder: Path, threads: int = 1) -> Report:
    """Words and bigrams of one dump file -> RUN/metadata/ngrams/<Wikipedia>/<file>/."""
    scheme = tokens.scheme_of(shard.name.partition("/")[0])
    counter = ngrams.Counter(folder / NGRAMS / shard.name, scheme)
    num_articles = num_bytes = 0
    for batch in read_articles(Path(shard.path), threads=threads):
        texts = batch.column("text")
        counter.add(tokens.segment(texts, scheme))
        num_articles += len(texts)
        num_bytes += texts.nbytes
    return {"pairs": num_articles, "bytes": num_bytes, "runs": len(counter.finish())}


def tally_file(shard: Shard, *, folder: Path, wikis: Sequence[str], min_line_views: Mapping[str, int]) -> Report:
    """Views of one page-view file -> RUN/metadata/views/<file>/."""
    aside = folder / VIEWS / shard.name
    shutil.rmtree(aside, ignore_errors=True)
    return titles.count_views(Path(shard.path), aside, wikis, min_line_views=min_line_views)


def counted_files(folder: Path, sources: Sources) -> list[Path]:
    """All files of counts that belong to the run's sources, with their markers."""
    found = []
    for shards, place, done in (
        ([shard for of_wiki in sources.texts.values() for shard in of_wiki], NGRAMS, NGRAMS_DONE),
        (sources.views, VIEWS, VIEWS_DONE),
    ):
        for shard in shards:
            found += [folder / done / f"{shard.name}.json", *(folder / place / shard.name).rglob("*")]
    return found


# --- candidates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class WikipediaCounts:
    """What was counted of one Wikipedia, and the rules for its candidates."""

    wiki: str
    config: MetadataConfig
    counts: ngrams.Counts | None
    views: tuple[Path, ...]
    namespaces: frozenset[str] | None
    """Of the site; None: not known, or the rule is `colon`."""

    @property
    def is_v1(self) -> bool:
        return self.wiki == ENGLISH and self.config.english_rule == "v1"

    def unigrams(self) -> Candidates:
        if self.counts is None:
            return iter(())
        if self.is_v1:
            return ngrams.iter_unigrams(self.counts, min_count=self.config.english_min_unigram_count)
        return ngrams.iter_unigrams(self.counts, top_fraction=self.config.unigram_top_fraction)

    def max_bigrams(self, num_unigrams: int) -> int:
        """The cap, given the unigrams kept of this Wikipedia; shares are rounded up."""
        if self.is_v1 or self.config.bigram_rule == "pmi":
            return self.config.max_bigrams
        return min(self.config.max_bigrams, math.ceil(self.config.bigram_fraction * num_unigrams))

    def bigrams(self, num_wanted: int, num_entries: int) -> Candidates:
        """By falling PMI; at most `num_entries` of them are entries already."""
        if self.counts is None or num_wanted == 0:
            return iter(())
        rule: dict[str, Any] = {"min_count": self.config.bigram_min_count}
        if self.is_v1:
            rule = {"min_pmi": self.config.bigram_min_pmi}
        elif self.config.bigram_rule == "pmi":
            rule = {"min_pmi": math.nextafter(self.config.bigram_min_pmi, math.inf)}
        joiner = tokens.scheme_of(self.wiki).joiner
        return ngrams.iter_bigrams_by_pmi(self.counts, joiner, first=num_wanted + num_entries, **rule)

    def titles(self) -> Candidates:
        views = titles.merge_views(self.views, self.wiki)
        if self.is_v1:
            least = self.config.english_min_title_views
            return titles.iter_titles(views, namespaces=self.namespaces, min_views=least)
        return titles.iter_titles(views, namespaces=self.namespaces, top_fraction=self.config.title_top_fraction)


@contextlib.contextmanager
def open_counts(lang: str, sources: Sources, config: MetadataConfig, folder: Path) -> Iterator[list[WikipediaCounts]]:
    """What was counted of each Wikipedia of a language, its files summed, in the table's order."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merge_", dir=folder) as scratch:
        yield [_sum_of(wiki, sources, config, folder, Path(scratch) / wiki) for wiki in sources.wikis.get(lang, ())]


def _sum_of(wiki: str, sources: Sources, config: MetadataConfig, folder: Path, scratch: Path) -> WikipediaCounts:
    runs = [
        run for shard in sources.texts.get(wiki, ()) for run in sorted((folder / NGRAMS / shard.name).glob("run_*"))
    ]
    return WikipediaCounts(
        wiki=wiki,
        config=config,
        counts=ngrams.merge(runs, scratch) if runs else None,
        views=tuple(folder / VIEWS / shard.name for shard in sources.views),
        namespaces=_namespaces(wiki, sources) if sources.views and config.title_rule == "namespaces" else None,
    )


def _namespaces(wiki: str, sources: Sources) -> frozenset[str] | None:
    """Names of a site's namespaces; None where no file says."""
    if (path := sources.siteinfo.get(wiki)) is None:
        return None
    if ".xml" in path.name:
        return frozenset(name for key, name in read_xml_namespaces(path).items() if key)
    return frozenset(titles.read_namespaces(path))


def describe_file(shard: Shard, licence: str) -> dict[str, Any]:
    """A source file as the manifest names it."""
    modified = datetime.fromtimestamp(Path(shard.path).stat().st_mtime, UTC).date().isoformat()
    return {"file": Path(shard.path).name, "modified": modified, **shard.fingerprint, "licence": licence}


def refuse_uncounted(lang: str, sources: Sources, uncounted: Mapping[str, str]) -> None:
    """Raises BadShard where a Wikipedia of the language lacks counts."""
    reasons = [uncounted[wiki] for wiki in sources.wikis.get(lang, ()) if wiki in uncounted]
    if reasons:
        raise BadShard(reasons[0])
