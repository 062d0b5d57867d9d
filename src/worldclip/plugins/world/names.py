"""The texts of all parts as one table: per subject and language a name and keywords."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from worldclip.language import table as languages
from worldclip.plugins.drawings import fraction
from worldclip.plugins.world.locales import is_main, language_of
from worldclip.plugins.world.parts import Part, territory_of

# Languages with held-out names of flags: ten families, 19 scripts, all resource levels.
HELD_FLAG_LANGS = (
    *("am", "ar", "bn", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hy", "id", "ja"),
    *("ka", "km", "ko", "my", "ru", "sw", "ta", "te", "th", "tr", "uk", "ur", "vi", "yo", "zh"),
)
HELD_FLAG_FRACTION = 0.2  # share of the territories whose name is held out of a language


@dataclass(frozen=True, slots=True)
class Names:
    """The texts of a subject in a language: the name first, each text once."""

    texts: tuple[str, ...]
    has_name: bool

    @property
    def name(self) -> str | None:
        return self.texts[0] if self.has_name else None


@dataclass(kw_only=True, slots=True)
class Table:
    """All texts of the pool, and how many each source gave."""

    names: dict[str, dict[str, Names]] = field(default_factory=dict)
    """Subject -> language -> texts; languages in sorted order."""
    held_flags: dict[str, list[str]] = field(default_factory=dict)
    """Language -> subjects of the flags whose texts are held out of training in this language."""
    num_texts: Counter[str] = field(default_factory=Counter)
    """Number of texts by part."""
    unknown_locales: Counter[str] = field(default_factory=Counter)
    """Texts by locale that is no language which CLDR knows; they are left out."""
    without_row: Counter[str] = field(default_factory=Counter)
    """Texts by language that has no row in language/table.csv; lang_truth is CLDR's code."""
    num_empty: int = 0

    def training_texts(self, subject: str) -> tuple[list[str], list[str]]:
        """Return the texts of a subject for training, and their languages.

        In a language with held-out flags no text of such a flag is there, and no picture has the name of one.
        """
        texts: list[str] = []
        langs: list[str] = []
        for lang, names in self.names.get(subject, {}).items():
            held = self.held_flags.get(lang, ())
            if subject in held:
                continue
            held_names = {self.names[flag][lang].texts[0] for flag in held}
            trained = [text for text in names.texts if text not in held_names]
            texts += trained
            langs += [lang] * len(trained)
        return texts, langs


def merge(parts: Sequence[Part]) -> Table:
    """Return the texts of all parts.  The name is that of the first part that has one, of its main locale first."""
    table = Table()
    collected: dict[str, dict[str, list[tuple[tuple[bool, int, bool, str], tuple[str, ...], bool]]]]
    collected = defaultdict(lambda: defaultdict(list))
    for rank, part in enumerate(parts):
        for text in part.texts:
            words = tuple(word for word in (text.name, *text.keywords) if word.strip())
            lang = language_of(text.locale)
            if lang is None:
                table.unknown_locales[text.locale] += len(words)
            elif not words:
                table.num_empty += 1
            else:
                order = (not text.name, rank, not is_main(text.locale), text.locale)
                collected[text.subject][lang].append((order, words, bool(text.name)))
                table.num_texts[part.name] += len(words)
    for subject in sorted(collected):
        table.names[subject] = {}
        for lang in sorted(collected[subject]):
            rows = sorted(collected[subject][lang])
            texts: dict[str, None] = {}
            for _, words, _ in rows:
                texts |= dict.fromkeys(words)
            table.names[subject][lang] = Names(tuple(texts), rows[0][2])
            if lang not in languages.by_code():
                table.without_row[lang] += len(texts)
    # Held out by hash, only flags that another language names.
    flags = [subject for subject in table.names if territory_of(subject) and len(table.names[subject]) > 1]
    for lang in HELD_FLAG_LANGS:
        for flag in flags:
            if lang in table.names[flag] and fraction(f"{territory_of(flag)} {lang}", "flag") < HELD_FLAG_FRACTION:
                table.held_flags.setdefault(lang, []).append(flag)
    return table
