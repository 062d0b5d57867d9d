"""Find the files of Wikipedias, count their words, bigrams and page views, and take candidates of entries from them.

RUN/metadata/ngrams/<Wikipedia>/<file>.counts   runs of the file's words and bigrams, kept so that a new cap or language
                                                recounts nothing
RUN/metadata/ngrams/<Wikipedia>/<file>.json     where they are in it: [[start, ...], ...]
RUN/metadata/views/<file>/                      views of titles
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, remove, write_json
from worldclip.core.console import say
from worldclip.core.errors import StageFailed, UserError
from worldclip.core.execute import Executor, Report, Shard
from worldclip.core.printable import counted
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import segment
from worldclip.language.table import Languages, Scheme
from worldclip.metadata.config import MetadataConfig, WikipediaRules, files_of
from worldclip.metadata.ngrams import runs
from worldclip.metadata.ngrams.counter import count_to_file
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.dumps import read_texts, read_xml_namespaces

NGRAMS = "ngrams"
VIEWS = "views"
ENGLISH = "en"
# Thresholds of English under v1.
MIN_WORD_COUNT = 100  # occurrences of a word
MIN_LINE_VIEWS = 50  # views of a title in an hour, for that hour to count
MIN_TITLE_VIEWS = 70  # views of a title in all hours

Candidates = Iterator[tuple[str, float | None]]
Record = dict[str, Any]  # JSON-able
NOT_STATED = "not stated"  # in place of a licence

DUMP_FORMATS = (".xml", ".parquet")
SITEINFO = "*siteinfo-namespaces.json*"
# Day, kind and part of a dump: `swwiki-20240101-pages-articles.xml.bz2`, `...-pages-articles1.xml-p1p9.bz2`.
_DUMP_NAME = re.compile(
    r"\w+wiki-(?P<day>\d{8}|latest)-(?P<kind>pages-articles-multistream|pages-articles)(?P<part>\d*)"
)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpFiles:
    """The files of the Wikipedias that the run's languages are built from."""

    wikis: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Per language, the Wikipedias that have files of text or of views, in the table's order."""
    texts: dict[str, list[Shard]] = field(default_factory=dict)
    """Per Wikipedia, the files of its text; shard names are `<Wikipedia>/<file>`."""
    views: list[Shard] = field(default_factory=list)
    """Page-view files."""
    siteinfo: dict[str, Path] = field(default_factory=dict)
    """Per Wikipedia, the file that names its namespaces, if there is one: the site's own list, else a dump."""

    def text_shards(self) -> list[Shard]:
        return list(itertools.chain.from_iterable(self.texts.values()))

    def all_wikis(self) -> list[str]:
        """Return the Wikipedias of all languages, sorted."""
        return sorted(set(itertools.chain.from_iterable(self.wikis.values())))


def needs_text(config: MetadataConfig) -> bool:
    """Return whether a source of the recipe reads the text of Wikipedias."""
    return not {"unigram", "bigram"}.isdisjoint(config.sources)


def needs_views(config: MetadataConfig) -> bool:
    """Return whether a source of the recipe reads page views."""
    return "title" in config.sources


def find_dumps(config: MetadataConfig, codes: Sequence[str], scheme: Scheme, languages: Languages) -> DumpFiles:
    """Return the files that the recipe's paths hold for the languages `codes`.

    scheme: of the labels of language identification, which decides what belongs to `other`.  Raises UserError for a
    missing folder and for files that hold the same articles.
    """
    if config.dumps and not Path(config.dumps).is_dir():
        raise UserError(f"metadata.dumps = {config.dumps!r}: no such folder; run: worldclip fetch metadata RECIPE")
    wikis = {code: languages.wikipedias(code, scheme) for code in codes}
    views: list[Shard] = []
    if config.dumps and needs_views(config):
        paths = sorted(Path(config.dumps, "pageviews").glob("*.gz"))
        views = [Shard.of_file(path.name, str(path)) for path in paths if not path.name.startswith(".")]
    texts: dict[str, list[Shard]] = {}
    siteinfo: dict[str, Path] = {}
    problems: list[str] = []
    for wiki in DumpFiles(wikis=wikis).all_wikis():
        files = _find_texts(config, wiki)
        if files and needs_text(config):
            problems += _report_repeated(wiki, files)
            texts[wiki] = [Shard.of_file(f"{wiki}/{path.name}", str(path), path.name) for path in files]
        namespaces = _find_siteinfo(config, wiki, files)
        if namespaces is not None:
            siteinfo[wiki] = namespaces
    if problems:
        raise UserError(problems)
    with_files = {}
    for code, of_lang in wikis.items():
        with_files[code] = tuple(wiki for wiki in of_lang if wiki in texts or views)
    return DumpFiles(wikis=with_files, texts=texts, views=views, siteinfo=siteinfo)


def _find_texts(config: MetadataConfig, wiki: str) -> list[Path]:
    if wiki in config.wikipedia:
        return [Path(path) for path in files_of(config.wikipedia[wiki])]
    if not config.dumps:
        return []
    texts = []
    for path in sorted((Path(config.dumps) / wiki).glob("*")):
        is_other = not _is_whole(path) or "-index" in path.name
        if not is_other and any(form in path.name for form in DUMP_FORMATS) and path.is_file():
            texts.append(path)
    return texts


def _is_whole(path: Path) -> bool:
    """Return whether a file is neither hidden nor a download that was interrupted."""
    return not path.name.startswith(".") and not path.name.endswith(".part")


def _find_siteinfo(config: MetadataConfig, wiki: str, files: Sequence[Path]) -> Path | None:
    folders = [path.parent for path in files[:1]]
    if config.dumps:
        folders.append(Path(config.dumps) / wiki)
    for folder in folders:
        for path in sorted(filter(_is_whole, folder.glob(SITEINFO)), reverse=True):
            return path  # the newest: of an earlier fetch they stay
    return next((path for path in files if ".xml" in path.name), None)


def _report_repeated(wiki: str, files: Sequence[Path]) -> list[str]:
    """Report files with one name, else files whose names say that they hold the same articles.

    These are dumps of two days, or two forms of one dump.
    """
    counts = Counter(path.name for path in files)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        return [
            f"metadata.wikipedia.{wiki} matches {', '.join(repeated)} in more than one folder, but counts are stored"
            " by file name; rename these files or change the pattern"
        ]
    first_of_dump: dict[tuple[str, str, bool], Path] = {}
    for path in files:
        name = _DUMP_NAME.match(path.name)
        if name is not None:
            first_of_dump.setdefault((name["day"], name["kind"], bool(name["part"])), path)
    if len(first_of_dump) < 2:
        return []
    names = ", ".join(str(path) for path in first_of_dump.values())
    return [f"{names}: several dumps of the Wikipedia {wiki}, whose articles would count twice; keep one of them"]


# --- counting ---------------------------------------------------------------------------------------------------------


def count_files(
    files: DumpFiles, config: MetadataConfig, folder: Path, executor: Executor, languages: Languages
) -> dict[str, str]:
    """Count every file that is not counted yet.  Returns the reason for each Wikipedia that lacks counts."""
    rules = config.wikipedia_rules
    uncounted: dict[str, str] = {}
    key: Record = {"icu": segment.icu_version(), "unicode": UNICODE_VERSION, "version": runs.RUNS_VERSION}
    key["punctuation"] = rules.punctuation
    # A recipe may change how the words of a language are found that it adds.
    key["cut"] = [(row.code, row.wikipedia, row.words) for row in languages.added if row.words != "space"]
    count = functools.partial(count_text, folder=folder, punctuation=rules.punctuation, languages=languages)
    for name, reason in _map(executor, count, files.text_shards(), NGRAMS, folder, key).items():
        uncounted.setdefault(name.partition("/")[0], reason)
    wikis = files.all_wikis()
    min_line_views = {ENGLISH: MIN_LINE_VIEWS} if is_v1(ENGLISH, rules) else {}
    key = {"wikis": wikis, "min_line_views": min_line_views, "version": titles.VIEWS_VERSION}
    count = functools.partial(count_page_views, folder=folder, wikis=wikis, min_line_views=min_line_views)
    for reason in _map(executor, count, files.views, VIEWS, folder, key).values():
        for wiki in wikis:  # every Wikipedia may have lines in every page-view file
            uncounted.setdefault(wiki, reason)
    return uncounted


def _map(
    executor: Executor, fn: Callable[[Shard], Report], shards: Sequence[Shard], label: str, folder: Path, key: Any
) -> dict[str, str]:
    """Map over shards and return the failures: dependents of a failed file fail later; everything else runs first."""
    if not shards:
        return {}
    size = sum(shard.fingerprint["size"] for shard in shards)
    say("metadata", f"{label} of {counted(len(shards), 'file')}, {size / 2**30:,.1f} GiB")
    try:
        executor.map(fn, shards, label=label, done_dir=layout.done_dir(folder, label), key=key)
    except StageFailed as error:
        return error.failures
    return {}


def count_text(shard: Shard, *, folder: Path, punctuation: Literal["unicode", "ascii"], languages: Languages) -> Report:
    """Count words and bigrams of one dump file into RUN/metadata/ngrams/<Wikipedia>/<file>.counts."""
    scheme = segment.scheme_of(languages.by_wikipedia()[shard.name.partition("/")[0]], languages, punctuation)
    sizes = {"pairs": 0, "bytes": 0}

    def batches() -> Iterator[pa.Array]:
        for texts in read_texts(Path(shard.path)):
            yield segment.segment(texts, scheme)
            sizes["pairs"] += len(texts)
            sizes["bytes"] += texts.nbytes

    counts_path, places_path = runs.run_files(folder / NGRAMS, shard.name)
    of_file = count_to_file(counts_path, batches(), scheme)
    write_json(places_path, [run[1:] for run in of_file])
    return {**sizes, "runs": len(of_file)}


def count_page_views(shard: Shard, *, folder: Path, wikis: Sequence[str], min_line_views: Mapping[str, int]) -> Report:
    """Sum the views of one page-view file into RUN/metadata/views/<file>/."""
    views_folder = folder / VIEWS / shard.name
    remove(views_folder)
    return titles.count_views(Path(shard.path), views_folder, wikis, min_line_views=min_line_views)


# --- candidates -------------------------------------------------------------------------------------------------------


def is_v1(wiki: str, rules: WikipediaRules) -> bool:
    """Return whether a Wikipedia follows version 1 of the recipe: counts, not shares, and no title with a colon."""
    return wiki == ENGLISH and rules.english_rule == "v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class WikipediaCounts:
    """The counts of one Wikipedia, and the rules for its candidates."""

    wiki: str
    rules: WikipediaRules
    counts: runs.Counts
    joiner: str
    """Stands between the words of a bigram."""
    views: tuple[Path, ...]
    namespaces: frozenset[str] | None
    """Names of the site's namespaces; None if unknown, or if every title with a colon is dropped."""

    def unigrams(self) -> tuple[Candidates, int]:
        """Return words by falling count, and how many new entries to take of them."""
        if is_v1(self.wiki, self.rules):
            return runs.iter_unigrams(self.counts, min_count=MIN_WORD_COUNT), self.rules.max_unigrams
        num_wanted = self.rules.share(self.rules.unigram_top_fraction, len(self.counts.words))
        return runs.iter_unigrams(self.counts), min(num_wanted, self.rules.max_unigrams)

    def max_bigrams(self, num_unigrams: int) -> int:
        """Return the cap, given the number of unigrams kept of this Wikipedia."""
        if is_v1(self.wiki, self.rules) or self.rules.bigram_rule == "pmi":
            return self.rules.max_bigrams
        return min(self.rules.max_bigrams, self.rules.share(self.rules.bigram_fraction, num_unigrams))

    def bigrams(self, num_wanted: int, num_entries: int) -> Candidates:
        """Return bigrams by falling PMI: enough for `num_wanted` new ones if `num_entries` are entries already."""
        rule: Record = {"min_count": self.rules.bigram_min_count}
        if is_v1(self.wiki, self.rules):
            rule = {"min_pmi": self.rules.bigram_min_pmi}
        elif self.rules.bigram_rule == "pmi":
            rule = {"min_pmi": math.nextafter(self.rules.bigram_min_pmi, math.inf)}  # must exceed it, not reach it
        return runs.iter_bigrams_by_pmi(self.counts, self.joiner, first=num_wanted + num_entries, **rule)

    def titles(self) -> tuple[Candidates, int] | None:
        """Return titles of articles by falling views, and how many new entries to take; None if there is no article."""
        views = titles.merge_views(self.views, self.wiki)
        articles = titles.find_articles(views, self.namespaces)
        if not len(articles):
            return None
        if is_v1(self.wiki, self.rules):
            return runs.iter_words(views, articles, MIN_TITLE_VIEWS), self.rules.max_titles
        num_wanted = self.rules.share(self.rules.title_top_fraction, len(articles))
        return runs.iter_words(views, articles), min(num_wanted, self.rules.max_titles)


def merge_counts(
    lang: str, files: DumpFiles, rules: WikipediaRules, languages: Languages, folder: Path, scratch: Path
) -> list[WikipediaCounts]:
    """Return the counts of each Wikipedia of a language, summed over its files, in the table's order.

    folder: RUN/metadata.  scratch: folder for sums of many runs, which the counts then read.
    """
    counts = []
    for wiki in files.wikis[lang]:
        of_wiki: list[runs.Run] = []
        for shard in files.texts.get(wiki, ()):
            counts_path, places_path = runs.run_files(folder / NGRAMS, shard.name)
            of_wiki += [runs.Run(counts_path, *place) for place in read_json(places_path)]
        siteinfo = files.siteinfo.get(wiki)
        namespaces = None
        if siteinfo is not None and files.views and rules.title_rule == "namespaces" and not is_v1(wiki, rules):
            if ".xml" in siteinfo.name:
                namespaces = frozenset(name for key, name in read_xml_namespaces(siteinfo).items() if key)
            else:
                namespaces = frozenset(titles.read_namespaces(siteinfo))
        counts.append(
            WikipediaCounts(
                wiki=wiki,
                rules=rules,
                counts=runs.merge(of_wiki, scratch / wiki),
                joiner=segment.scheme_of(languages.by_wikipedia()[wiki], languages).joiner,
                views=tuple(folder / VIEWS / shard.name for shard in files.views),
                namespaces=namespaces,
            )
        )
    return counts
