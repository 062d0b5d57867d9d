"""How texts get their language and their entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import AtLeast, Between, Config, Decides, Problems
from worldclip.language.entry_lists import EntryLists


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig(Config):
    """Language identification and substring matching."""

    profile: Annotated[Literal["reference", "unicode"], Decides("metadata", "match")] = "unicode"
    """What delimits a word: reference (spaces and ASCII punctuation, as the reference implementation), or unicode
    (Unicode's categories)."""
    fold_case: Annotated[bool, Decides("metadata", "match")] = False
    """Ignore case (profile unicode only)."""
    isolate: Annotated[Literal["language", "merged", "english"], Decides("metadata", "match", "balance")] = "language"
    """Entry list that a text is matched against: its language's own, all lists merged into one, or English's."""
    min_lang_prob: Annotated[float, Between(0, 1, "a probability")] = 0.0
    """Drop texts whose language is less probable than this, as no_language."""
    merge_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the language-identification model to map to another language, e.g. `ms = "id"`."""
    restrict_to_recipe_languages: bool = False
    """Choose the most probable label among the recipe's languages instead of among all."""
    compare_profiles: Annotated[int, AtLeast(0, "texts, 0 for no comparison")] = 0
    """Approximate number of texts on which the report compares the match rates of all profiles; 0: no comparison."""

    def own_problems(self) -> Problems:
        """Yield case folding under a profile that cannot fold."""
        if self.fold_case and self.profile != "unicode":
            yield "fold_case", f'only profile unicode folds case, and match.profile is "{self.profile}"'

    @property
    def entry_lists(self) -> EntryLists:
        """The lists that texts are matched against."""
        return EntryLists(self.isolate)

    @property
    def matcher_name(self) -> str:
        """Return the folder of the compiled matcher: reference, unicode or unicode_fold."""
        return f"{self.profile}_fold" if self.fold_case else self.profile
