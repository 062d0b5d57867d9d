"""Count words, bigrams and page views of Wikipedias, one file per shard, and take a language's candidates from them.

RUN/metadata/ngrams/<Wikipedia>/<file>.counts   runs of the file's words and bigrams, kept so that a new cap or language
                                                recounts nothing
RUN/metadata/ngrams/<Wikipedia>/<file>.json     where they are in it: [[start, ...], ...]
RUN/metadata/views/<file>/                      views of titles
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, remove, write_json
from worldclip.core.errors import StageFailed
from worldclip.core.execute import Executor, Report, Shard, reads_input
from worldclip.kernels.unicode_table import UNICODE_VERSION
from worldclip.language import segment
from worldclip.language.table import INSTALLED, Languages
from worldclip.metadata import ngrams
from worldclip.metadata.config import MetadataConfig, WikipediaRules
from worldclip.metadata.dump_files import DumpFiles
from worldclip.metadata.sources import titles
from worldclip.metadata.sources.dumps import read_texts, read_xml_namespaces

NGRAMS, VIEWS = "ngrams", "views"
ENGLISH = "en"

Candidates = Iterator[tuple[str, float | None]]
Record = dict[str, Any]  # JSON-able


# --- counting ---------------------------------------------------------------------------------------------------------


def count_files(
    files: DumpFiles, config: MetadataConfig, folder: Path, executor: Executor, languages: Languages
) -> dict[str, str]:
    """Count every file that is not counted yet.  Returns the reason for each Wikipedia that lacks counts."""
    failures = _count_texts(files.text_shards(), config.wikipedia_rules, folder, executor, languages)
    uncounted: dict[str, str] = {}
    for name, reason in failures.items():
        uncounted.setdefault(name.partition("/")[0], reason)
    wikis = files.all_wikis()
    for reason in _count_views(files.views, wikis, config.wikipedia_rules, folder, executor).values():
        for wiki in wikis:  # every Wikipedia may have lines in every page-view file
            uncounted.setdefault(wiki, reason)
    return uncounted


def _count_texts(
    shards: Sequence[Shard], rules: WikipediaRules, folder: Path, executor: Executor, languages: Languages
) -> dict[str, str]:
    """Count words and bigrams of each dump file; return the failures."""
    key: Record = {"icu": segment.icu_version(), "unicode": UNICODE_VERSION, "version": ngrams.RUNS_VERSION}
    if rules.punctuation == "ascii":
        key["punctuation"] = "ascii"
    count = functools.partial(count_text, folder=folder, punctuation=rules.punctuation, languages=languages)
    words_of_added = {wiki: language.words for language in languages.added for wiki in language.wikipedia}
    by_words: dict[str, list[Shard]] = {}
    for shard in shards:
        words = words_of_added.get(shard.name.partition("/")[0], "")
        by_words.setdefault(words, []).append(shard)
    failures: dict[str, str] = {}
    for words, of_words in by_words.items():
        own_key = key | ({"words": words} if words else {})  # a recipe may change how it finds the words
        failures |= _map(executor, count, of_words, NGRAMS, folder, own_key)
    return failures


def _count_views(
    shards: Sequence[Shard], wikis: Sequence[str], rules: WikipediaRules, folder: Path, executor: Executor
) -> dict[str, str]:
    """Sum the views of titles in each page-view file; return the failures."""
    min_line_views = {ENGLISH: rules.english_min_line_views} if is_v1(ENGLISH, rules) else {}
    key = {"wikis": wikis, "min_line_views": min_line_views, "version": titles.VIEWS_VERSION}
    count = functools.partial(count_page_views, folder=folder, wikis=wikis, min_line_views=min_line_views)
    return _map(executor, count, shards, VIEWS, folder, key)


def _map(
    executor: Executor, fn: Callable[[Shard], Report], shards: Sequence[Shard], label: str, folder: Path, key: Any
) -> dict[str, str]:
    """Map over shards and return the failures: dependents of a failed file fail later; everything else runs first."""
    if not shards:
        return {}
    try:
        executor.map(fn, shards, label=label, done_dir=layout.done_dir(folder, label), key=key)
    except StageFailed as error:
        return error.failures
    return {}


@reads_input
def count_text(
    shard: Shard,
    *,
    folder: Path,
    punctuation: Literal["unicode", "ascii"] = "unicode",
    languages: Languages = INSTALLED,
) -> Report:
    """Count words and bigrams of one dump file into RUN/metadata/ngrams/<Wikipedia>/<file>.counts."""
    scheme = segment.scheme_of(shard.name.partition("/")[0], punctuation, languages)
    sizes = {"pairs": 0, "bytes": 0}

    def batches() -> Iterator[pa.Array]:
        for texts in read_texts(Path(shard.path)):
            yield segment.segment(texts, scheme)
            sizes["pairs"] += len(texts)
            sizes["bytes"] += texts.nbytes

    counts_path, places_path = ngrams.run_files(folder / NGRAMS, shard.name)
    runs = ngrams.count_to_file(counts_path, batches(), scheme)
    write_json(places_path, [run[1:] for run in runs])
    return {**sizes, "runs": len(runs)}


@reads_input
def count_page_views(shard: Shard, *, folder: Path, wikis: Sequence[str], min_line_views: Mapping[str, int]) -> Report:
    """Sum the views of one page-view file into RUN/metadata/views/<file>/."""
    views_folder = folder / VIEWS / shard.name
    remove(views_folder)
    return titles.count_views(Path(shard.path), views_folder, wikis, min_line_views=min_line_views)


def counted_files(folder: Path, files: DumpFiles) -> list[Path]:
    """Return all files of counts that belong to the run's sources, with their markers."""
    paths: list[Path] = []
    for shard in files.text_shards():
        paths += [layout.marker(folder, shard.name, NGRAMS), *ngrams.run_files(folder / NGRAMS, shard.name)]
    for shard in files.views:
        paths += [layout.marker(folder, shard.name, VIEWS), *(folder / VIEWS / shard.name).rglob("*")]
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
    counts: ngrams.Counts
    joiner: str
    """Stands between the words of a bigram."""
    views: tuple[Path, ...]
    namespaces: frozenset[str] | None
    """Names of the site's namespaces; None if unknown, or if every title with a colon is dropped."""

    def unigrams(self) -> tuple[Candidates, int]:
        """Return words by falling count, and how many new entries to take of them."""
        if is_v1(self.wiki, self.rules):
            least = self.rules.english_min_unigram_count
            return ngrams.iter_unigrams(self.counts, min_count=least), self.rules.max_unigrams
        num_wanted = self.rules.share(self.rules.unigram_top_fraction, len(self.counts.words))
        return ngrams.iter_unigrams(self.counts), min(num_wanted, self.rules.max_unigrams)

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
        return ngrams.iter_bigrams_by_pmi(self.counts, self.joiner, first=num_wanted + num_entries, **rule)

    def titles(self) -> tuple[Candidates, int] | None:
        """Return titles of articles by falling views, and how many new entries to take; None if there is no article."""
        views = titles.merge_views(self.views, self.wiki)
        articles = titles.find_articles(views, self.namespaces)
        if not len(articles):
            return None
        if is_v1(self.wiki, self.rules):
            least = self.rules.english_min_title_views
            return ngrams.iter_words(views, articles, least), self.rules.max_titles
        num_wanted = self.rules.share(self.rules.title_top_fraction, len(articles))
        return ngrams.iter_words(views, articles), min(num_wanted, self.rules.max_titles)


def merge_counts(
    lang: str, files: DumpFiles, rules: WikipediaRules, languages: Languages, folder: Path, scratch: Path
) -> list[WikipediaCounts]:
    """Return the counts of each Wikipedia of a language, summed over its files, in the table's order.

    folder: RUN/metadata.  scratch: where sums of many runs are written, which the counts then read.
    """
    counts = []
    for wiki in files.wikis[lang]:
        runs = [run for shard in files.texts.get(wiki, ()) for run in read_runs(folder, shard.name)]
        counts.append(
            WikipediaCounts(
                wiki=wiki,
                rules=rules,
                counts=ngrams.merge(runs, scratch / wiki),
                joiner=segment.scheme_of(wiki, languages=languages).joiner,
                views=tuple(folder / VIEWS / shard.name for shard in files.views),
                namespaces=_read_namespaces(wiki, files, rules),
            )
        )
    return counts


def read_runs(folder: Path, shard_name: str) -> list[ngrams.Run]:
    """Return the runs of a dump file."""
    counts_path, places_path = ngrams.run_files(folder / NGRAMS, shard_name)
    return [ngrams.Run(counts_path, *place) for place in read_json(places_path)]


def _read_namespaces(wiki: str, files: DumpFiles, rules: WikipediaRules) -> frozenset[str] | None:
    siteinfo = files.siteinfo.get(wiki)
    keeps_colons = rules.title_rule == "namespaces" and not is_v1(wiki, rules)
    if siteinfo is None or not files.views or not keeps_colons:
        return None
    if ".xml" in siteinfo.name:
        return frozenset(name for key, name in read_xml_namespaces(siteinfo).items() if key)
    return frozenset(titles.read_namespaces(siteinfo))
