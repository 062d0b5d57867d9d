"""The outcomes of a text or a key: the reasons why one is dropped, in the order in which they apply, and `kept`.

A text has the first reason that applies.  Pool, match and curate hold it as int8 codes and each settles some reasons:
what a stage does not drop stays `kept` for the next one.  Artifacts hold names, so a new reason may stand anywhere in
its stage's group; a report of an earlier release lacks its column, which then counts as 0.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """One end of a text or key: its code, its colour in charts (a role of the report's palette) and its meaning."""

    colour: str
    meaning: str

    # settled by the pool's reader
    BAD_PAIR = 0, "bad", "bad pair: unreadable"
    DUPLICATE = 1, "s8", "duplicate key"
    NO_TEXT = 2, "s7", "no text"
    # settled by match
    NO_LANGUAGE = 3, "s5", "no language: its language has no entry list in this run"
    NO_MATCH = 4, "s4", "no match: contains no entry of its language"
    # settled by curate
    NOT_VALID = 5, "s3", "not valid: not among the valid keys, or denied"
    EXCLUDED = 6, "s6", "excluded: its language is excluded"
    SAMPLED_OUT = 7, "s2", "sampled out: its entries are frequent"
    KEPT = 8, "s1", "kept"

    def __new__(cls, code: int, colour: str, meaning: str) -> Reason:
        reason = int.__new__(cls, code)
        reason._value_ = code
        reason.colour = colour
        reason.meaning = meaning
        return reason

    @property
    def label(self) -> str:
        """The reason's name: bad_pair, ..., kept."""
        return self.name.lower()

    @property
    def column(self) -> str:
        """The reason's column in curate's report: its name, but pairs_out for what is kept."""
        return "pairs_out" if self is Reason.KEPT else self.label


REASONS = tuple(Reason)  # indexed by code
MATCHED = "matched"  # match's name for texts that it does not drop; curate decides on them
