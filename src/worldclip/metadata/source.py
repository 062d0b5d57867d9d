"""A source of entries, an item of the registry `worldclip.metadata_sources`, and lists made of them.

A source is a function that appends its entries of a language, with what must be known before it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from worldclip.core.registry import Requirement
from worldclip.language.table import INSTALLED, Language, Languages
from worldclip.metadata.config import METADATA_SOURCES, MetadataConfig
from worldclip.metadata.counting import Record, WikipediaCounts
from worldclip.metadata.dump_files import DumpFiles
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.ngrams import Counts

NOT_STATED = "not stated"  # in place of a licence
MAX_NAMED = 40  # languages in a message


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


def used_sources(config: MetadataConfig) -> dict[str, Source]:
    """Return the sources of the recipe by name, in the order of the registry."""
    return {name: METADATA_SOURCES.load(name) for name in METADATA_SOURCES.names() if name in config.sources}


def build_entries(inputs: Inputs) -> EntryList:
    """Return the list of one language, from the recipe's sources in the order of the registry.

    Raises BadShard for a broken file.
    """
    built = EntryList()
    for source in used_sources(inputs.config).values():
        source.add(built, inputs)
    return built


def name_all(langs: Sequence[str]) -> str:
    """Return the codes as text, the first MAX_NAMED of many."""
    more = len(langs) - MAX_NAMED
    return ", ".join(langs[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
