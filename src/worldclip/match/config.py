"""How texts get their language and their entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import Decides


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """Language identification and substring matching."""

    profile: Annotated[Literal["reference", "unicode"], Decides("metadata", "match")] = "unicode"
    """What bounds a word: `reference` as the reference implementation, `unicode` by Unicode's categories."""
    fold_case: Annotated[bool, Decides("metadata", "match")] = False
    """Ignore case (profile unicode only)."""
    isolate: Annotated[Literal["language", "merged", "english"], Decides("metadata", "match", "balance")] = "language"
    """The list a text is matched against: its language's own, all lists as one, or English's."""
    min_lang_prob: float = 0.0
    """Texts whose language is less probable than this are dropped as no_language."""
    merge_labels: dict[str, str] = field(default_factory=dict)
    """Labels sent to another language, e.g. `ms = "id"`."""
    restrict_to_recipe_languages: bool = False
    """Take the most probable label among the recipe's own languages rather than among all."""
    compare_profiles: int = 0
    """Texts of the pool, about, on which the report compares the match rates of all profiles; 0: none."""

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.min_lang_prob <= 1:
            found.append(f"match.min_lang_prob is {self.min_lang_prob}; it is a probability between 0 and 1")
        if self.fold_case and self.profile != "unicode":
            found.append(
                f"match.fold_case is true with match.profile {self.profile!r}; only profile unicode folds case"
            )
        if self.compare_profiles < 0:
            found.append(f"match.compare_profiles is {self.compare_profiles}; it is a number of texts, 0 for none")
        return found

    @property
    def matcher_name(self) -> str:
        """Folder of the compiled matcher: reference, unicode or unicode_fold."""
        return f"{self.profile}_fold" if self.fold_case else self.profile
