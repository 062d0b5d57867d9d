"""Which languages get entries, from which sources, and the caps (defaults: arXiv:2309.16671, arXiv:2507.22062)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from worldclip import languages

Source = Literal["number", "wordnet", "wordfreq", "list"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataConfig:
    """Sources of the entries of each language."""

    sources: tuple[Source, ...] = ("number", "wordnet", "wordfreq", "list")
    """Sources to use; their order in the list of entries is always number, wordnet, wordfreq, list."""
    wordnets: dict[str, str] = field(default_factory=dict)
    """OMW .tab or .tab.gz file of each language, e.g. `sq = "wn-data-als.tab.gz"`."""
    wordfreq_top: int = 100_000
    """Most frequent words a language to take from the package wordfreq, each as given and in title case."""
    lists: dict[str, str] = field(default_factory=dict)
    """List of entries of each language: one a line, optionally a tab and a score; or a JSON array (.json)."""
    max_chars: int = 256
    """Longer entries are dropped (WordNet's are exempt), as in the reference."""
    profiles: tuple[Literal["reference", "unicode", "unicode_fold"], ...] = ()
    """Matchers to compile beside the one that match uses."""

    def problems(self) -> list[str]:
        found = []
        if not self.sources:
            found.append("metadata.sources is empty; name at least one of number, wordnet, wordfreq, list")
        if self.wordfreq_top < 1:
            found.append(f"metadata.wordfreq_top is {self.wordfreq_top}; it counts words and must be at least 1")
        if self.max_chars < 1:
            found.append(f"metadata.max_chars is {self.max_chars}; it limits an entry's length and must be at least 1")
        known = {language.code for language in languages.all()}
        for key, source, files in (("wordnets", "wordnet", self.wordnets), ("lists", "list", self.lists)):
            for lang, path in files.items():
                if lang not in known:
                    found.append(f"metadata.{key}.{lang} is for no language of the table; languages.csv lists them all")
                if not Path(path).is_file():
                    found.append(f"metadata.{key}.{lang} is {path!r}, which is no file; give the path of one")
            if files and source not in self.sources:
                found.append(
                    f"metadata.{key} names files but metadata.sources lacks {source!r}; add it or remove the files"
                )
        return found
