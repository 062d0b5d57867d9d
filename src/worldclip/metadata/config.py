"""Which languages get entries, from which sources, and the caps (defaults: arXiv:2309.16671, arXiv:2507.22062)."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from worldclip.language import table as languages

Source = Literal["number", "wordnet", "unigram", "bigram", "title", "wordfreq", "list"]

# How the package wn names a lexicon: its id and version.  Not a drive, whose name is one letter.
_LEXICON = re.compile(r"[A-Za-z][\w.+-]+:[\w.+-]+")

# As many as English has, arXiv:2309.16671.
MAX_UNIGRAMS, MAX_BIGRAMS, MAX_TITLES = 251_465, 100_646, 61_235


def is_lexicon(wordnet: str) -> bool:
    """Whether a wordnet's name means a lexicon of the package wn (`omw-fr:1.4`), not a file."""
    return _LEXICON.fullmatch(wordnet) is not None and not Path(wordnet).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataConfig:
    """Sources of the entries of each language."""

    sources: tuple[Source, ...] = ("number", "wordnet", "unigram", "bigram", "title", "wordfreq", "list")
    """Sources to use; their order in the list of entries is always this one."""
    pack: str = ""
    """File that `worldclip pack` made: languages in it take their lists from it as they are, others are built."""
    wordnets: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """WordNets of each language, one or several: an OMW file (.tab, .tab.gz), a WN-LMF file (.xml, .xml.gz), or a
    lexicon that the package wn has installed, as `omw-fr:1.4`."""
    wordfreq_top: int = 100_000
    """Most frequent words a language to take from the package wordfreq, each as given and in title case."""
    lists: dict[str, str] = field(default_factory=dict)
    """List of entries of each language: one a line, optionally a tab and a score; or a JSON array (.json)."""
    licences: dict[str, str] = field(default_factory=dict)
    """Licence of each language's plain list, for the manifest, e.g. `sw = "CC BY 4.0"`."""
    wikipedia: dict[str, str] = field(default_factory=dict)
    """Text of Wikipedias by their own codes: a file, or a pattern as `zh_yue = "dumps/zh_yuewiki-*.xml.bz2"`."""
    text_licences: dict[str, str] = field(default_factory=dict)
    """Licence of the text given for a Wikipedia's code where it is a corpus of your own; unset: Wikipedia's."""
    dumps: str = ""
    """Folder with a folder of files for each Wikipedia's code, as `worldclip fetch metadata` leaves it."""
    pageviews: str = ""
    """Hourly page-view files: a folder or a pattern; unset: the folder `pageviews` of metadata.dumps."""
    unigram_top_fraction: float = 0.10
    """Share of a Wikipedia's distinct words, the most frequent ones, that become entries."""
    max_unigrams: int = MAX_UNIGRAMS
    """Most unigrams of a Wikipedia; what is an entry already does not count."""
    bigram_rule: Literal["ratio", "pmi"] = "ratio"
    """`ratio`: bigram_fraction of the unigrams kept, by falling PMI; `pmi`: all above bigram_min_pmi."""
    bigram_fraction: float = 0.4
    """Bigrams for each unigram kept, under rule ratio (100,646 / 251,465)."""
    bigram_min_count: int = 5
    """Times that a bigram must occur, under rule ratio."""
    bigram_min_pmi: float = 30.0
    """Pointwise mutual information (log2) that a bigram must exceed under rule pmi, and reach in English under v1."""
    max_bigrams: int = MAX_BIGRAMS
    """Most bigrams of a Wikipedia; what is an entry already does not count."""
    title_rule: Literal["namespaces", "colon"] = "namespaces"
    """Which titles are no articles: those in a namespace of the site, or all with a colon (the reference)."""
    title_top_fraction: float = 0.76
    """Share of a Wikipedia's titles, the most viewed ones, that become entries."""
    max_titles: int = MAX_TITLES
    """Most titles of a Wikipedia; what is an entry already does not count."""
    english_rule: Literal["v1", "as_others"] = "v1"
    """`v1`: English by counts, not shares, as in version 1 of the recipe; a small English corpus needs `as_others`."""
    english_min_unigram_count: int = 100
    """Times that an English word must occur under v1."""
    english_min_line_views: int = 50
    """Views in an hour below which an English title's hour does not count under v1."""
    english_min_title_views: int = 70
    """Views that an English title must have under v1."""
    max_chars: int = 256
    """Longer entries are dropped (WordNet's are exempt), as in the reference."""
    profiles: tuple[Literal["reference", "unicode", "unicode_fold"], ...] = ()
    """Matchers to compile beside the one that match uses."""

    def wordnets_of(self, lang: str) -> tuple[str, ...]:
        """The wordnets of a language that are to be read."""
        given = self.wordnets.get(lang, ()) if "wordnet" in self.sources else ()
        return (given,) if isinstance(given, str) else tuple(given)

    def list_of(self, lang: str) -> Path | None:
        """The plain list of a language that is to be read."""
        return Path(self.lists[lang]) if "list" in self.sources and lang in self.lists else None

    def problems(self) -> list[str]:
        return [
            *self._number_problems(),
            *self._file_problems(),
            *self._licence_problems(),
            *self._wikipedia_problems(),
        ]

    def _number_problems(self) -> list[str]:
        found = []
        if not self.sources:
            found.append(f"metadata.sources is empty; name at least one of {', '.join(get_args(Source))}")
        counts = {
            "wordfreq_top": "counts words",
            "max_chars": "limits an entry's length",
            "bigram_min_count": "counts occurrences",
        }
        for key, meaning in counts.items():
            if getattr(self, key) < 1:
                found.append(f"metadata.{key} is {getattr(self, key)}; it {meaning} and must be at least 1")
        limits = ("max_unigrams", "max_bigrams", "max_titles", "bigram_fraction")
        shares = ("unigram_top_fraction", "title_top_fraction")
        found += [
            f"metadata.{key} is {getattr(self, key)}; it limits entries and must not be negative"
            for key in limits
            if getattr(self, key) < 0
        ]
        found += [
            f"metadata.{key} is {getattr(self, key)}; it is a share and must be from 0 to 1"
            for key in shares
            if not 0 <= getattr(self, key) <= 1
        ]
        return found

    def _file_problems(self) -> list[str]:
        found = []
        known = {language.code for language in languages.all_languages()}
        wordnets = {lang: (given,) if isinstance(given, str) else given for lang, given in self.wordnets.items()}
        lists = {lang: (path,) for lang, path in self.lists.items()}
        for key, source, files in (("wordnets", "wordnet", wordnets), ("lists", "list", lists)):
            for lang, paths in files.items():
                if lang not in known:
                    found.append(f"metadata.{key}.{lang} is for no language of the table (language/table.csv)")
                if not paths:
                    found.append(f"metadata.{key}.{lang} is empty; name a file, or take {lang} out")
                may_be = " or, as omw-fr:1.4, a lexicon that wn has installed" if key == "wordnets" else ""
                found += [
                    f"metadata.{key}.{lang} is {path!r}, which is no file; give the path of one{may_be}"
                    for path in paths
                    if not Path(path).is_file() and not (key == "wordnets" and is_lexicon(path))
                ]
            if files and source not in self.sources:
                found.append(
                    f"metadata.{key} names files but metadata.sources lacks {source!r}; add it or remove the files"
                )
        if "://" in self.pack:
            found.append(f"metadata.pack is {self.pack!r}; fetch it first: worldclip unpack {self.pack} --out DIR")
        elif self.pack and not Path(self.pack).is_file():
            found.append(f"metadata.pack is {self.pack!r}, which is no file; worldclip pack RUN --out FILE makes one")
        return found

    def _licence_problems(self) -> list[str]:
        found = [
            f"metadata.licences.{lang} is of a list, and metadata.lists has none of {lang}; add the list or remove it"
            for lang in sorted(set(self.licences) - set(self.lists))
        ]
        found += [
            f"metadata.text_licences.{wiki} is of a text, and metadata.wikipedia has none of {wiki}; add it there"
            for wiki in sorted(set(self.text_licences) - set(self.wikipedia))
        ]
        return found

    def _wikipedia_problems(self) -> list[str]:
        found = []
        known = {wiki for language in languages.all_languages() for wiki in language.wikipedia}
        for wiki, pattern in self.wikipedia.items():
            if wiki not in known:
                found.append(f"metadata.wikipedia.{wiki} is no Wikipedia of the table (language/table.csv)")
            if not glob.glob(pattern):
                found.append(f"metadata.wikipedia.{wiki} is {pattern!r}, which no file matches; give a file or pattern")
        if self.wikipedia and not {"unigram", "bigram"} & set(self.sources):
            found.append(
                "metadata.wikipedia names files but metadata.sources lacks 'unigram' and 'bigram'; add one or both"
            )
        if self.pageviews and not Path(self.pageviews).is_dir() and not glob.glob(self.pageviews):
            found.append(f"metadata.pageviews is {self.pageviews!r}, which no file matches; give a folder or pattern")
        return found
