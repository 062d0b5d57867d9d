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
    """The languages that the recipe knows."""
    pool_digest: str | None = None
    """The digest of the pool's texts and their languages; None if they are not counted yet."""
    counts: Sequence[WikipediaCounts] = ()
    """The counts of the language's Wikipedias, while its list is built."""
    pool_counts: Counts | None = None
    """The counts of the pool's texts in the language, while its list is built."""

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
    """Append the source's entries of a language, most important first.  Raises BadShard for a broken file."""
    reads: Callable[[Inputs], Sequence[Record]] = lambda inputs: ()
    """Return what the source reads for a language: per file or package a record with `source` and `licence`, and
    `package` and `version` or what identifies the file.  The manifest keeps the records, and a change of one builds the
    list again.  Without a record, the source has no words of the language."""
    should_have: Callable[[Inputs], bool] = lambda inputs: False
    """Return whether the source should have entries of a language.  The run names languages of which it has none, and
    stops if it reads nothing for any of them."""
    remedy: str = ""
    """How to get the source's files."""
    requires: Requirement = Requirement()
    """Packages that must be installed if the source reads something."""
