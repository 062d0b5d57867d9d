"""Which list of entries a text is matched against: the one meaning of `match.isolate`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Isolate = Literal["language", "merged", "english"]
MERGED = "merged"


@dataclass(frozen=True, slots=True)
class EntryLists:
    """The entry lists of a run: each language's own, all as one (`merged`), or English's for every text."""

    isolate: Isolate

    def list_of(self, lang: str) -> str:
        """Return the list that a text of this language is matched against."""
        return {"language": lang, "merged": MERGED, "english": "en"}[self.isolate]

    def names(self, languages: Collection[str]) -> tuple[str, ...]:
        """Return the lists that texts of these languages are matched against, sorted."""
        return tuple(sorted({self.list_of(lang) for lang in languages}))

    @property
    def english(self) -> str:
        """The list that `balance.english_threshold` is about."""
        return MERGED if self.isolate == "merged" else "en"

    @property
    def has_one(self) -> bool:
        """Whether all texts share one list."""
        return self.isolate != "language"
