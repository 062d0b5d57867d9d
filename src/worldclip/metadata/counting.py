"""Count words, bigrams and page views of Wikipedias, one file per shard, and take a language's candidates from them.

RUN/metadata/ngrams/<Wikipedia>/<file>/     runs of a Counter, kept so that a new cap or language recounts nothing
RUN/metadata/views/<file>/                  views of titles
"""

from __future__ import annotations

import contextlib
import functools
import glob
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worldclip.core.artifacts import digest, remove
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import Executor, Report, Shard, reads_input, usable_cores
from worldclip.core.inputs import fingerprint_of
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import segment
from worldclip.language import table as languages
from worldclip.metadata import ngrams
from worldclip.metadata.config import MetadataConfig, WikipediaRules
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.wikipedia import read_articles, read_xml_namespaces

NGRAMS, VIEWS = "ngrams", "views"
NGRAMS_DONE, VIEWS_DONE = "done/ngrams", "done/views"
ENGLISH = "en"
DUMP_FORMATS = (".xml", ".json", ".parquet")
SITEINFO = "*siteinfo-namespaces.json*"
# Day, kind and part of a dump: `swwiki-20240101-pages-articles.xml.bz2`, `...-pages-articles1.xml-p1p9.bz2`.
_DUMP_NAME = re.compile(
    r"\w+wiki-(?P<day>\d{8}|latest)-"
    r"(?P<kind>pages-articles-multistream|pages-articles|cirrussearch-content)(?P<part>\d*)"
)
TEXT_LICENCE = "CC BY-SA 4.0 (text of Wikipedia; older revisions also GFDL)"
VIEWS_LICENCE = "CC0 1.0 (page views of Wikimedia)"

Candidates = Iterator[tuple[str, float | None]]
Record = dict[str, Any]  # JSON-able


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The files of the Wikipedias that the run's languages are built from."""

    wikis: dict[str, tuple[str, ...]]
    """Per language, the Wikipedias that have files of text or of views, in the table's order."""
    texts: dict[str, list[Shard]]
    """Per Wikipedia, the files of its text; shard names are `<Wikipedia>/<file>`."""
    views: list[Shard]
    """Page-view files."""
    siteinfo: dict[str, Path] = field(default_factory=dict)
    """Per Wikipedia, the file that names its namespaces, if there is one: the site's own list, else a dump."""

    def text_shards(self) -> list[Shard]:
        return [shard for shards in self.texts.values() for shard in shards]


def find_sources(config: MetadataConfig, codes: Sequence[str], scheme: languages.Scheme) -> Sources:
    """Return the files that the recipe's paths hold for the languages `codes`.

    scheme: of the labels of language identification, which decides what belongs to `other`.  Raises UserError for a
    missing folder and for files that hold the same articles.
    """
    if config.dumps and not Path(config.dumps).is_dir():
        raise UserError(f"metadata.dumps = {config.dumps!r}: no such folder; run: worldclip fetch metadata RECIPE")
    wikis = {code: languages.wikipedias(code, scheme) for code in codes}
    needs_text = bool({"unigram", "bigram"} & set(config.sources))
    views = [_shard(path.name, path) for path in _view_files(config)] if "title" in config.sources else []
    texts: dict[str, list[Shard]] = {}
    siteinfo: dict[str, Path] = {}
    problems: list[str] = []
    for wiki in sorted({wiki for wikis_of_lang in wikis.values() for wiki in wikis_of_lang}):
        files = _text_files(config, wiki)
        if files and needs_text:
            problems += _repeated_files(wiki, files)
            texts[wiki] = [_shard(f"{wiki}/{path.name}", path) for path in files]
        if path := _siteinfo_file(config, wiki, files):
            siteinfo[wiki] = path
    if problems:
        raise UserError(problems)
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


def _siteinfo_file(config: MetadataConfig, wiki: str, files: Sequence[Path]) -> Path | None:
    folders = [path.parent for path in files[:1]]
    folders += [Path(config.dumps) / wiki] if config.dumps else []
    candidates = [path for folder in folders for path in sorted(folder.glob(SITEINFO))]
    candidates += [path for path in files if ".xml" in path.name]
    return candidates[0] if candidates else None


def _repeated_files(wiki: str, files: Sequence[Path]) -> list[str]:
    """Report files with one name, else files whose names say that they hold the same articles.

    These are dumps of two days, or two forms of one dump.
    """
    counts = Counter(path.name for path in files)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        return [
            f"metadata.wikipedia.{wiki} matches {', '.join(repeated)} in more than one folder, but counts are stored"
            " by file name; rename these files or change the pattern"
        ]
    first_of_dump: dict[tuple[str, str, bool], Path] = {}
    for path in files:
        if (name := _DUMP_NAME.match(path.name)) is not None:
            first_of_dump.setdefault((name["day"], name["kind"], bool(name["part"])), path)
    if len(first_of_dump) < 2:
        return []
    names = ", ".join(str(path) for path in first_of_dump.values())
    return [f"{names}: several dumps of the Wikipedia {wiki}, whose articles would count twice; keep one of them"]


def _is_dump(name: str) -> bool:
    """Tell files with articles from indexes, lists of namespaces and partial downloads in a folder of dumps."""
    is_other = name.startswith(".") or name.endswith(".part") or "siteinfo" in name or "-index" in name
    return not is_other and any(form in name for form in DUMP_FORMATS)


def _view_files(config: MetadataConfig) -> list[Path]:
    place = config.pageviews or (str(Path(config.dumps) / "pageviews") if config.dumps else "")
    if not place:
        return []
    files = Path(place).glob("*.gz") if Path(place).is_dir() else map(Path, glob.glob(place))
    return sorted(path for path in files if not path.name.startswith("."))


def _shard(name: str, path: Path) -> Shard:
    return Shard.of_file(name, str(path), path.name)


def _fingerprint_file(path: Path) -> Record:
    return fingerprint_of(str(path), path.name)


def fingerprint_wikipedias(lang: str, sources: Sources) -> Record:
    """Return what the candidates of a language depend on: each file of text, and one digest of all page views."""
    wikis = sources.wikis[lang]
    fingerprints: Record = {}
    if texts := {wiki: [shard.fingerprint for shard in sources.texts[wiki]] for wiki in wikis if wiki in sources.texts}:
        fingerprints["wikipedia"] = {"files": texts, "icu": segment.icu_version()}
    if wikis and sources.views:
        fingerprints["title"] = {
            "files": len(sources.views),
            "digest": digest([shard.fingerprint for shard in sources.views]),
            "siteinfo": [_fingerprint_file(sources.siteinfo[wiki]) for wiki in wikis if wiki in sources.siteinfo],
        }
    return fingerprints


# --- counting ---------------------------------------------------------------------------------------------------------


def count_files(sources: Sources, config: MetadataConfig, folder: Path, executor: Executor) -> dict[str, str]:
    """Count every file that is not counted yet.  Returns the reason for each Wikipedia that lacks counts."""
    texts = sources.text_shards()
    rules = config.wikipedia_rules
    key: Record = {"icu": segment.icu_version(), "unicode": UNICODE_VERSION}
    if rules.punctuation == "ascii":
        key["punctuation"] = "ascii"
    threads = max(1, usable_cores() // max(1, len(texts)))  # a single file is decompressed on all cores
    count_words = functools.partial(count_text, folder=folder, punctuation=rules.punctuation, threads=threads)
    words_of_added = {wiki: language.words for language in languages.added() for wiki in language.wikipedia}
    by_words: dict[str, list[Shard]] = {}
    for shard in texts:
        by_words.setdefault(words_of_added.get(shard.name.partition("/")[0], ""), []).append(shard)
    failures: dict[str, str] = {}
    for words, shards in by_words.items():
        own_key = key | ({"words": words} if words else {})  # a recipe may change how it finds the words
        failures |= _map(executor, count_words, shards, NGRAMS, folder / NGRAMS_DONE, own_key)
    uncounted = {name.partition("/")[0]: reason for name, reason in reversed(failures.items())}
    wikis = sorted({wiki for of_lang in sources.wikis.values() for wiki in of_lang})
    min_line_views = {ENGLISH: rules.english_min_line_views} if is_v1(ENGLISH, rules) else {}
    count_views = functools.partial(count_page_views, folder=folder, wikis=wikis, min_line_views=min_line_views)
    key = {"wikis": wikis, "min_line_views": min_line_views, "version": titles.VIEWS_VERSION}
    failures = _map(executor, count_views, sources.views, VIEWS, folder / VIEWS_DONE, key)
    for reason in failures.values():
        uncounted = {**dict.fromkeys(wikis, reason), **uncounted}
    return uncounted


def _map(
    executor: Executor, fn: Callable[[Shard], Report], shards: Sequence[Shard], label: str, done_dir: Path, key: Any
) -> dict[str, str]:
    """Map over shards and return the failures: dependents of a failed file fail later; everything else runs first."""
    if not shards:
        return {}
    try:
        executor.map(fn, shards, label=label, done_dir=done_dir, key=key)
    except StageFailed as error:
        return error.failures
    return {}


@reads_input
def count_text(
    shard: Shard, *, folder: Path, punctuation: Literal["unicode", "ascii"] = "unicode", threads: int = 1
) -> Report:
    """Count words and bigrams of one dump file into RUN/metadata/ngrams/<Wikipedia>/<file>/."""
    scheme = segment.scheme_of(shard.name.partition("/")[0], punctuation)
    counter = ngrams.Counter(folder / NGRAMS / shard.name, scheme)
    num_articles = num_bytes = 0
    for batch in read_articles(Path(shard.path), threads=threads):
        texts = batch.column("text")
        counter.add(segment.segment(texts, scheme))
        num_articles += len(texts)
        num_bytes += texts.nbytes
    return {"pairs": num_articles, "bytes": num_bytes, "runs": len(counter.finish())}


@reads_input
def count_page_views(shard: Shard, *, folder: Path, wikis: Sequence[str], min_line_views: Mapping[str, int]) -> Report:
    """Sum the views of one page-view file into RUN/metadata/views/<file>/."""
    views_folder = folder / VIEWS / shard.name
    remove(views_folder)
    return titles.count_views(Path(shard.path), views_folder, wikis, min_line_views=min_line_views)


def counted_files(folder: Path, sources: Sources) -> list[Path]:
    """Return all files of counts that belong to the run's sources, with their markers."""
    paths: list[Path] = []
    for shards, place, done in (
        (sources.text_shards(), NGRAMS, NGRAMS_DONE),
        (sources.views, VIEWS, VIEWS_DONE),
    ):
        for shard in shards:
            paths += [folder / done / f"{shard.name}.json", *(folder / place / shard.name).rglob("*")]
    return paths


# --- candidates -------------------------------------------------------------------------------------------------------


def is_v1(wiki: str, rules: WikipediaRules) -> bool:
    """Return whether a Wikipedia follows version 1 of the recipe: counts, not shares, and no title with a colon."""
    return wiki == ENGLISH and rules.english_rule == "v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class WikipediaCounts:
    """The counts of one Wikipedia, and the rules for its candidates."""

    wiki: str
    rules: WikipediaRules
    counts: ngrams.Counts | None
    views: tuple[Path, ...]
    namespaces: frozenset[str] | None
    """Names of the site's namespaces; None if unknown, or if every title with a colon is dropped."""

    @property
    def is_v1(self) -> bool:
        return is_v1(self.wiki, self.rules)

    def unigrams(self) -> tuple[Candidates, int]:
        """Return words by falling count, and how many new entries to take of them."""
        if self.counts is None:
            return iter(()), 0
        if self.is_v1:
            least = self.rules.english_min_unigram_count
            return ngrams.iter_unigrams(self.counts, min_count=least), self.rules.max_unigrams
        num_wanted = self.rules.share(self.rules.unigram_top_fraction, len(self.counts.words))
        return ngrams.iter_unigrams(self.counts), min(num_wanted, self.rules.max_unigrams)

    def max_bigrams(self, num_unigrams: int) -> int:
        """Return the cap, given the number of unigrams kept of this Wikipedia."""
        if self.is_v1 or self.rules.bigram_rule == "pmi":
            return self.rules.max_bigrams
        return min(self.rules.max_bigrams, self.rules.share(self.rules.bigram_fraction, num_unigrams))

    def bigrams(self, num_wanted: int, num_entries: int) -> Candidates:
        """Return bigrams by falling PMI: enough for `num_wanted` new ones if `num_entries` are entries already."""
        if self.counts is None or num_wanted == 0:
            return iter(())
        rule: Record = {"min_count": self.rules.bigram_min_count}
        if self.is_v1:
            rule = {"min_pmi": self.rules.bigram_min_pmi}
        elif self.rules.bigram_rule == "pmi":
            rule = {"min_pmi": math.nextafter(self.rules.bigram_min_pmi, math.inf)}  # must exceed it, not reach it
        joiner = segment.scheme_of(self.wiki).joiner
        return ngrams.iter_bigrams_by_pmi(self.counts, joiner, first=num_wanted + num_entries, **rule)

    def titles(self) -> tuple[Candidates, int] | None:
        """Return titles of articles by falling views, and how many new entries to take; None if there is no article."""
        views = titles.merge_views(self.views, self.wiki)
        articles = titles.find_articles(views, self.namespaces)
        if not len(articles):
            return None
        if self.is_v1:
            least = self.rules.english_min_title_views
            return titles.iter_titles(views, articles, least), self.rules.max_titles
        num_wanted = self.rules.share(self.rules.title_top_fraction, len(articles))
        return titles.iter_titles(views, articles), min(num_wanted, self.rules.max_titles)


@contextlib.contextmanager
def open_counts(lang: str, sources: Sources, config: MetadataConfig, folder: Path) -> Iterator[list[WikipediaCounts]]:
    """Yield the counts of each Wikipedia of a language, summed over its files, in the table's order."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".merge_", dir=folder) as scratch:
        yield [_sum_counts(wiki, sources, config, folder, Path(scratch) / wiki) for wiki in sources.wikis[lang]]


def _sum_counts(wiki: str, sources: Sources, config: MetadataConfig, folder: Path, scratch: Path) -> WikipediaCounts:
    runs: list[Path] = []
    for shard in sources.texts.get(wiki, ()):
        runs += sorted((folder / NGRAMS / shard.name).glob("run_*"))
    rules = config.wikipedia_rules
    namespaces = None
    siteinfo = sources.siteinfo.get(wiki)
    keeps_colons = rules.title_rule == "namespaces" and not is_v1(wiki, rules)
    if siteinfo is not None and sources.views and keeps_colons:
        if ".xml" in siteinfo.name:
            namespaces = frozenset(name for key, name in read_xml_namespaces(siteinfo).items() if key)
        else:
            namespaces = frozenset(titles.read_namespaces(siteinfo))
    return WikipediaCounts(
        wiki=wiki,
        rules=rules,
        counts=ngrams.merge(runs, scratch) if runs else None,
        views=tuple(folder / VIEWS / shard.name for shard in sources.views),
        namespaces=namespaces,
    )
