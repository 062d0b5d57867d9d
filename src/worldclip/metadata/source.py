"""A source of entries: the interface of the registry `worldclip.metadata_sources` (docs/plugins.md).

`build_entries` makes the list of one language from its sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import fingerprint
from worldclip.core.errors import BadShard
from worldclip.core.registry import Requirement
from worldclip.language.table import INSTALLED, Language, Languages
from worldclip.metadata.config import METADATA_SOURCES, MetadataConfig
from worldclip.metadata.counting import Candidates, Record, WikipediaCounts
from worldclip.metadata.dump_files import DumpFiles
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.ngrams import Counts

NOT_STATED = "not stated in the file"
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
    """Of the pool's texts and their languages; None: they are not counted."""
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


class Source:
    """A source of entries.  A source that reads files overrides `files` and `read`."""

    name: str
    meaning: str
    """Description of one of its entries, for `worldclip inspect`."""
    score: str = "score"
    """Description of its scores."""
    requires = Requirement()
    licence = NOT_STATED
    input_name: str | None = None
    """Name of its input in the manifest (default: its own); sources with one name share the input."""
    remedy = "set a file of it"
    """How to get what is missing; may hold {fetch} and {lang}."""

    def files(self, inputs: Inputs) -> Sequence[Path]:
        """Return the files that it reads for a language; if one changes, the list is built again."""
        return ()

    def has_words(self, inputs: Inputs) -> bool:
        """Return whether it has words of a language, as far as that is known before they are read."""
        return bool(self.files(inputs))

    def read(self, inputs: Inputs) -> Candidates:
        """Yield (entry, score or None), most important first.  Raises BadShard for a broken file."""
        raise NotImplementedError

    def problems(self, config: MetadataConfig) -> Iterator[str]:
        """Yield what is wrong with its options, as `key: what and what to do`."""
        return iter(())

    def is_missing(self, inputs: Inputs) -> bool:
        """Return whether a language should have it and has not; this stops the run unless it is allowed."""
        return False

    def needs_packages(self, inputs: Inputs) -> bool:
        """Return whether `requires` is needed for a language."""
        return self.has_words(inputs)

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        """Append its entries to the list of a language."""
        if self.has_words(inputs):
            entries.add(self.name, self.read(inputs), inputs.config.max_chars)

    def fingerprint(self, inputs: Inputs) -> Any:
        """Return what identifies all that it reads for a language, JSON-able; nothing if it reads nothing."""
        return [fingerprint_file(path) for path in self.files(inputs)]

    def describe(self, inputs: Inputs, known: Any) -> list[Record]:
        """Return a record for the manifest per file or package: name, fingerprint, licence.

        known: its fingerprint.
        """
        return [
            {"source": self.name, **describe_path(path), "licence": self.licence, **identity}
            for path, identity in zip(self.files(inputs), known, strict=True)
        ]

    def notes(self, lists: Mapping[str, Record], built: Sequence[str], config: MetadataConfig) -> Iterator[str]:
        """Yield sentences for the report.

        lists: for each list the number of entries `by_source`; built: those that are not from a pack.
        """
        return iter(())


def used_sources(config: MetadataConfig) -> list[Source]:
    """Return the sources of the recipe, in the order of the registry."""
    return [METADATA_SOURCES.load(name) for name in METADATA_SOURCES.names() if name in config.sources]


def build_entries(inputs: Inputs) -> EntryList:
    """Return the list of one language, from the recipe's sources in the order of the registry.

    Raises BadShard if the files of a source, or all sources, hold nothing of the language.
    """
    config, lang = inputs.config, inputs.lang
    built = EntryList()
    sources = used_sources(config)
    for source in sources:
        source.add_to(built, inputs)
    if not built.entries:
        too_long = sum(counts["too_long"] for counts in built.rules.values())
        remedy = f"set metadata.lists.{lang}"
        if too_long:
            remedy = f"{too_long:,} are longer than metadata.max_chars = {config.max_chars}; raise it"
        raise BadShard(f"no entry of {lang} from {', '.join(built.rules) or 'any source'}; {remedy}")
    silent = [source.name for source in sources if source.has_words(inputs) and source.name not in built.rules]
    empty = [name for name in silent if name not in config.allow_missing]
    if empty:
        names = ", ".join(f'"{name}"' for name in empty)
        raise BadShard(
            f"the files hold no {' and no '.join(empty)} of {lang}; fetch them again, or to go on without:"
            f" metadata.allow_missing = [{names}]"
        )
    return built


def name_all(langs: Sequence[str]) -> str:
    """Return the codes as text, the first MAX_NAMED of many."""
    more = len(langs) - MAX_NAMED
    return ", ".join(langs[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def fingerprint_file(path: Path) -> Record:
    """Return the fingerprint of a file by its name."""
    return fingerprint(path, path.parent)


def describe_path(path: Path) -> Record:
    """Return a file's name and date as the manifest has them."""
    date = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    return {"file": path.name, "modified": date.isoformat()}
