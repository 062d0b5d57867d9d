"""One language's entries in their final order, and the fate of each candidate."""

from __future__ import annotations

import functools
import math
from array import array
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from worldclip.language import characters
from worldclip.metadata.counting import Candidates

MAX_CHARS = 256  # of an entry, as in the reference
RULES = ("empty", "punctuation", "too_long", "not_text", "duplicate")
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@dataclass(kw_only=True, slots=True)
class EntryList:
    """Entries in their final order, and how many candidates of each source each rule dropped."""

    entries: dict[str, None] = field(default_factory=dict)
    sources: list[tuple[str, int]] = field(default_factory=list)
    """(source, number of consecutive entries from it)."""
    scores: array[float] = field(default_factory=lambda: array("d"))
    """One per entry; NaN if it has none."""
    rules: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(
        self, source: str, candidates: Candidates, limit: int | None = None, max_chars: int | None = MAX_CHARS
    ) -> int:
        """Append the candidates that pass the rules; of equal entries the first stays, with its source and score.

        limit: number of entries to keep, at which reading stops; candidates that are entries already do not count.
        max_chars: None for no limit.  Returns the number of entries kept.
        """
        counts = self.rules.setdefault(source, dict.fromkeys(("in", *RULES, "kept"), 0))
        num_kept = 0
        if limit == 0:
            candidates = iter(())
        for raw, score in candidates:
            entry = raw.strip()
            rule = None
            if not entry:
                rule = "empty"
            elif max_chars is not None and len(entry) > max_chars:
                rule = "too_long"
            elif is_punctuation(entry):
                rule = "punctuation"
            elif not entry.isascii() and any("\ud800" <= char <= "\udfff" for char in entry):
                rule = "not_text"
            elif entry in self.entries:
                rule = "duplicate"
            counts["in"] += 1
            counts[rule or "kept"] += 1
            if rule is None:
                self.entries[entry] = None
                self.scores.append(math.nan if score is None else score)
                num_kept += 1
                if num_kept == limit:
                    break
        self.sources.append((source, num_kept))
        return num_kept

    def table(self) -> pa.Table:
        """Return entry_id, entry, source and score of every entry."""
        names = [source for source, _ in self.sources]
        source_idx = np.repeat(np.arange(len(names), dtype=np.int32), [number for _, number in self.sources])
        columns = {
            "entry_id": pa.array(np.arange(len(self.entries), dtype=np.int32)),
            "entry": pa.array(self.entries.keys(), pa.string(), size=len(self.entries)),
            "source": pa.array(names, pa.string()).take(pa.array(source_idx)),
            "score": pa.array(np.frombuffer(self.scores, np.float64), from_pandas=True),
        }
        return pa.table(columns)


def is_punctuation(entry: str) -> bool:
    """Return whether an entry consists of punctuation (category P*, ASCII's marks) and whitespace only."""
    if entry[0].isalnum():  # no punctuation, whatever Unicode version the interpreter has; nearly all entries end here
        return False
    return _marks_and_blanks().issuperset(entry)


@functools.cache
def _marks_and_blanks() -> frozenset[str]:
    return characters.punctuation() | _ASCII_PUNCTUATION | frozenset(characters.WHITESPACE)
