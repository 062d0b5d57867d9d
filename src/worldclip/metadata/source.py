"""A source of entries: a function that appends its entries of a language, with what must be known before its call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worldclip.core.registry import Requirement
from worldclip.language.table import INSTALLED, Language, Languages
from worldclip.metadata.config import MetadataConfig
from worldclip.metadata.counting import DumpFiles, Record, WikipediaCounts
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.ngrams.runs import Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """All that the list of one language may be built from."""

    lang: str
    config: MetadataConfig
    files: DumpFiles = field(default_factory=DumpFiles)
    languages: Languages = INSTALLED
    """Of the recipe."""
    pool_digest: str | None = None
    """Of the pool's texts and their languages; None: they are not counted yet."""
    counts: Sequence[WikipediaCounts] = ()
    """Of the language's Wikipedias, while its list is built."""
    pool_counts: Counts | None = None
    """Of the pool's texts in the language, while its list is built."""

    @property
    def language(self) -> Language:
        """Return the row of the language."""
        return self.languages.get(self.lang)

    @property
    def wikis(self) -> tuple[str, ...]:
        """Return the Wikipedias of the language that have files."""
        return self.files.wikis.get(self.lang, ())


class Source(NamedTuple):
    """A source of entries."""

    add: Callable[[EntryList, Inputs], object]
    """Append its entries of a language to the list, most important first; raises BadShard for a broken file."""
    reads: Callable[[Inputs], Sequence[Record]] = lambda inputs: ()
    """Return what it reads for a language: per file or package a record with `source` and `licence`, and `package` and
    `version` or what identifies the file.  The manifest keeps the records; a change of one builds the list again.
    Nothing: it has no words of the language."""
    should_have: Callable[[Inputs], bool] = lambda inputs: False
    """Return whether it should have entries of a language: the run names languages of which it has none, and stops
    where it reads nothing for any of them."""
    remedy: str = ""
    """How to get its files."""
    requires: Requirement = Requirement()
    """Packages that must be installed where it reads something."""
