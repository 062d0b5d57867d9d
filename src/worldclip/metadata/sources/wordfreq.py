"""Frequent words of the package wordfreq (about 40 languages; its data is CC BY-SA 4.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worldclip.core.errors import require
from worldclip.language import table as languages

LICENCE = "CC BY-SA 4.0"
_SMASHED_NUMBER = re.compile(r"\d.*\d")  # wordfreq counts 1984 as 0000: what it then lists is no word of any text
_PART = re.compile(r"[^\s\-]+")
_DOTTED_I = frozenset({"tr", "az", "crh", "gag"})  # their i and ı are two letters, in capitals as well


def read_frequent_words(lang: str, top: int) -> Iterator[tuple[str, float]]:
    """The `top` most frequent words, each as given, then in title case, with its share of all words.

    wordfreq lower-cases, so names come back only by the title case.  Words with two digits or more, in which wordfreq
    has put 0 for each digit, are left out.  Raises KeyError for a language that wordfreq does not have.
    """
    theirs = languages.get(lang).wordfreq
    if theirs is None:
        raise KeyError(lang)
    frequencies = require("wordfreq", extra="metadata").get_frequency_dict(theirs, "best")
    for word, frequency in list(frequencies.items())[:top]:
        if _SMASHED_NUMBER.search(word):
            continue
        yield word, frequency
        yield title_case(word, lang), frequency


def title_case(word: str, lang: str) -> str:
    """First letter of each part between blanks or hyphens in title case: It's, Jean-Paul, İstanbul."""
    return _PART.sub(lambda part: _capitalize(part.group(), lang), word)


def _capitalize(part: str, lang: str) -> str:
    if lang in _DOTTED_I and part[0] == "i":
        return "İ" + part[1:]
    if lang == "nl" and part.startswith("ij"):
        return "IJ" + part[2:]
    return part[0].title() + part[1:]
