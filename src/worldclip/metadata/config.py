"""Which languages get entries, from which sources, and by which rules (arXiv:2309.16671, arXiv:2507.22062)."""

from __future__ import annotations

import dataclasses
import glob
import math
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from worldclip.contracts.sources import METADATA_SOURCES
from worldclip.core.registry import ItemOf
from worldclip.core.settings import AtLeast, Between, Config, Decides, NotEmpty, Place, Problems, value_problem
from worldclip.language.table import Languages, how_to_know

PAPER_SOURCES = ("number", "wordnet", "unigram", "bigram", "title")

# How the package wn names a lexicon: its id and version.  A drive's name is one letter, so `C:words.tab` is a file.
_LEXICON = re.compile(r"[A-Za-z][\w.+-]+:[\w.+-]+")


def is_lexicon(wordnet: str) -> bool:
    """Return whether a wordnet's name means a lexicon of the package wn (`omw-fr:1.4`), not a file."""
    return _LEXICON.fullmatch(wordnet) is not None and not os.path.isfile(wordnet)


@dataclass(frozen=True, kw_only=True, slots=True)
class WikipediaRules:
    """Which words, bigrams and titles of a Wikipedia become entries.  Caps are English's sizes in arXiv:2309.16671."""

    unigram_top_fraction: Annotated[float, Between(0, 1, "a share of the distinct words")] = 0.10
    """Number of unigrams that are not entries yet, as a share of the distinct words; most frequent first."""
    max_unigrams: Annotated[int, AtLeast(0, "new entries")] = 251_465
    """Maximum number of unigrams that are not entries yet."""
    bigram_rule: Literal["ratio", "pmi"] = "ratio"
    """ratio: bigram_fraction of the unigrams kept, highest PMI first; pmi: all above bigram_min_pmi."""
    bigram_fraction: Annotated[float, AtLeast(0, "bigrams per unigram")] = 0.4  # 100,646 / 251,465
    """Bigrams per unigram kept, under rule ratio."""
    bigram_min_count: Annotated[int, AtLeast(1, "occurrences")] = 5
    """Minimum number of occurrences of a bigram, under rule ratio."""
    bigram_min_pmi: float = 30.0
    """Pointwise mutual information (log2) that a bigram exceeds under rule pmi, and reaches in English under v1."""
    max_bigrams: Annotated[int, AtLeast(0, "new entries")] = 100_646
    """Maximum number of bigrams that are not entries yet."""
    title_rule: Literal["namespaces", "colon"] = "namespaces"
    """Titles to drop as no articles: those in a namespace of the site, or all with a colon."""
    title_top_fraction: Annotated[float, Between(0, 1, "a share of the titles")] = 0.76
    """Number of titles that are not entries yet, as a share of the titles of articles; most viewed first."""
    max_titles: Annotated[int, AtLeast(0, "new entries")] = 61_235
    """Maximum number of titles that are not entries yet."""
    share_rounding: Literal["up", "down"] = "up"
    """How shares are rounded to whole entries."""
    punctuation: Literal["unicode", "ascii"] = "unicode"
    """Tokens that are no words and end a bigram, in languages written with spaces: unicode: those without a letter,
    mark or digit; ascii: only the 32 marks of ASCII."""
    english_rule: Literal["v1", "as_others"] = "v1"
    """v1: English by counts, not shares, and no title with a colon, as in version 1 of the recipe; a small English
    corpus needs as_others."""

    def share(self, fraction: float, total: int) -> int:
        """Return the share of a number of candidates, of the fraction as it is written: 0.07 of 100 are 7."""
        exact = Fraction(str(fraction)) * total
        return math.floor(exact) if self.share_rounding == "down" else math.ceil(exact)


RULES = {
    "paper": WikipediaRules(),
    "reference": WikipediaRules(bigram_rule="pmi", title_rule="colon", share_rounding="down", punctuation="ascii"),
}


# A key that names files: each list's fingerprint holds the files of its language, so other lists stay finished.
_FILES = Decides("metadata.files")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataConfig(Config):
    """Sources of each language's entries.

    Examples:
        worldclip metadata my.toml
        worldclip metadata runs/my_images --sources wordfreq cldr
    """

    sources: Annotated[
        tuple[str, ...], NotEmpty('for example "number", "wordfreq"'), ItemOf("metadata source", METADATA_SOURCES)
    ] = PAPER_SOURCES
    """Sources to use; entries are always in the order number, wordnet, unigram, bigram, title, wordfreq, cldr,
    emoji, pool.  Default: the paper's five."""
    wordnets: Annotated[dict[str, str | tuple[str, ...]], _FILES, Place(or_name=True)] = field(default_factory=dict)
    """WordNets of each language, one or several: a file of the Open Multilingual Wordnet (.tab, .tab.gz), or a lexicon
    installed in the package wn, e.g. `omw-fr:1.4`."""
    installed_wordnets: bool = False
    """Read the paper's lexicons that the package wn has installed, of languages without WordNets of their own in the
    recipe.  A lexicon that `python -m wn download` adds later builds the list again."""
    wordfreq_top: Annotated[int, AtLeast(1, "words per language")] = 100_000
    """Number of most frequent words per language from the package wordfreq, each as it is and in title case."""
    pool_min_count: Annotated[int, AtLeast(1, "occurrences")] = 5
    """Minimum number of occurrences of a word, and of a pair of words, among the pool's texts of its language (source
    `pool`)."""
    lists: Annotated[dict[str, str] | str, _FILES, Place()] = field(default_factory=dict)
    """Whole list of a language, in place of all sources: of a run (RUN/metadata/CODE.parquet), one entry per line with
    optionally a tab and a score, or a JSON array (.json).  Or a folder RUN/metadata, for all lists in it.  Each may be
    at an address (hf://, s3://)."""
    wikipedia: Annotated[dict[str, str], _FILES, Place()] = field(default_factory=dict)
    """Text of Wikipedias, by their own codes: a file, or a pattern, e.g. `zh_yue = "dumps/zh_yuewiki-*.xml.bz2"`."""
    dumps: Annotated[str, _FILES, Place()] = ""
    """Folder with a subfolder of files per Wikipedia code, and hourly page views in `pageviews`, as `worldclip fetch
    metadata` writes it."""
    rules: Literal["paper", "reference"] = "paper"
    """How much of a Wikipedia becomes entries: as the paper and its guide say, or as the reference code does (bigrams
    with a PMI above 30, no title with a colon, shares rounded down, only ASCII's marks as punctuation)."""
    overrides: dict[str, int | float | str] = field(default_factory=dict)
    """Single rules and caps in place of those of metadata.rules, e.g. `english_rule = "as_others"`; docs/1_metadata.md
    lists them."""

    @property
    def wikipedia_rules(self) -> WikipediaRules:
        """Return metadata.rules with the overrides applied."""
        return dataclasses.replace(RULES[self.rules], **self.overrides)  # type: ignore[arg-type]

    def own_problems(self) -> Problems:
        """Yield invalid overrides, missing files, unknown languages, and files of sources that are not used."""
        for key, value in self.overrides.items():
            text = value_problem(WikipediaRules, key, value)
            if text:
                yield f"overrides.{key}", text
        if self.wordnets and "wordnet" not in self.sources:
            yield "wordnets", 'unused: metadata.sources lacks "wordnet"; add it or remove the files'
        remedy = "set a file, or a lexicon installed in wn (e.g. omw-fr:1.4)"
        for lang, names in self.wordnets.items():
            if not names:
                yield f"wordnets.{lang}", f"must not be empty; {remedy}, or remove {lang}"
            for name in (names,) if isinstance(names, str) else names:
                if not (is_lexicon(name) or _may_be_file(name)):
                    yield f"wordnets.{lang}", f'no such file "{name}"; {remedy}'
        if not isinstance(self.lists, str):
            for lang, file in self.lists.items():
                if not _may_be_file(file):
                    yield f"lists.{lang}", "no such file; set a file, or an address"
        elif "://" not in self.lists and not os.path.isdir(self.lists):
            yield "lists", "no such folder; set the folder metadata of a run, or lists.CODE = FILE"
        for wiki, pattern in self.wikipedia.items():
            if not files_of(pattern):
                yield f"wikipedia.{wiki}", "matches no file; set a file or a pattern"
        if self.wikipedia and not {"unigram", "bigram"} & set(self.sources):
            yield "wikipedia", 'unused: metadata.sources lacks "unigram" and "bigram"; add one or both'

    def problems_with(self, languages: Languages) -> Problems:
        """Yield files of languages and Wikipedias that [languages] does not know."""
        lists = {} if isinstance(self.lists, str) else self.lists
        for key, files in (("wordnets", self.wordnets), ("lists", lists)):
            for lang in files:
                if lang not in languages.by_code():
                    yield f"{key}.{lang}", f"unknown language; {how_to_know(lang)}"
        for wiki in self.wikipedia:
            if wiki not in languages.by_wikipedia():
                yield f"wikipedia.{wiki}", "unknown Wikipedia; worldclip languages lists the known ones"


def files_of(pattern: str) -> list[str]:
    """Return the files of metadata.wikipedia, sorted: a file, or a pattern; brackets in a folder's name are its own."""
    folder, name = os.path.split(pattern)
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(folder):
        pattern = os.path.join(glob.escape(folder), name)
    return sorted(glob.glob(pattern))


def _may_be_file(path: str) -> bool:
    return "://" in path or os.path.isfile(path)
