"""Frequent words of the package wordfreq (about 40 languages; its data is CC BY-SA 4.0)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worldclip.core.errors import require
from worldclip.language import table as languages

LICENCE = "CC BY-SA 4.0"
# wordfreq counts all numbers with the same number of digits as one, written with zeros: 1984 as 0000.  Such a word
# occurs in no text.  Source: smash_numbers in wordfreq/numbers.py.
_MERGED_NUMBER = re.compile(r"\d.*\d")
_PART = re.compile(r"[^\s\-]+")
_DOTTED_I = frozenset({"tr", "az", "crh", "gag"})  # languages where i and ı are two letters; their capitals are İ and I


def read_frequent_words(lang: str, top: int) -> Iterator[tuple[str, float]]:
    """Yield the `top` most frequent words with their share of all words, each as it is, then in title case.

    wordfreq lower-cases all words, so only the title case brings names back.  Words with two digits or more are
    skipped.  Raises KeyError for a language that wordfreq does not have.
    """
    wordfreq_lang = languages.get(lang).wordfreq
    if wordfreq_lang is None:
        raise KeyError(lang)
    frequencies = require("wordfreq", extra="metadata").get_frequency_dict(wordfreq_lang, "best")
    for word, frequency in list(frequencies.items())[:top]:
        if _MERGED_NUMBER.search(word):
            continue
        yield word, frequency
        yield title_case(word, lang), frequency


def title_case(word: str, lang: str) -> str:
    """Return the word with each part between whitespace or hyphens capitalized: It's, Jean-Paul, İstanbul."""
    return _PART.sub(lambda part: _capitalize(part.group(), lang), word)


def _capitalize(part: str, lang: str) -> str:
    if lang in _DOTTED_I and part[0] == "i":
        return "İ" + part[1:]
    if lang == "nl" and part.startswith("ij"):  # one letter in Dutch: IJsland
        return "IJ" + part[2:]
    return part[0].title() + part[1:]
