"""How texts get their language and their entries, and the one meaning of `match.isolate`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import Between, Config, Decides, Problems

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


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig(Config):
    """Language identification and substring matching.

    Examples:
        worldclip match runs/my_images
        worldclip match runs/my_images --min-lang-prob 0.5
    """

    profile: Annotated[Literal["reference", "unicode"], Decides("metadata", "match")] = "unicode"
    """Delimiters of words: reference (spaces and the seven marks , . ; : ? ! `, as the reference implementation), or
    unicode (Unicode's categories)."""
    fold_case: Annotated[bool, Decides("metadata", "match")] = False
    """Ignore case (profile unicode only)."""
    isolate: Annotated[Isolate, Decides("metadata", "match", "balance")] = "language"
    """Entry list that a text is matched against: its language's own, all lists merged into one, or English's."""
    min_lang_prob: Annotated[float, Between(0, 1, "a probability")] = 0.0
    """Drop texts whose language is less probable than this, as no_language."""
    merge_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the language-identification model to map to another language, e.g. `ms = "id"`."""
    restrict_to_recipe_languages: bool = False
    """Choose the most probable label among the recipe's languages instead of among all."""

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
