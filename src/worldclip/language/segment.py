"""Text of a Wikipedia -> the tokens that n-grams are counted over, table-driven.

Languages written with spaces: split at white space; each ASCII punctuation mark and each character that is CJK or
similar is a token of its own.  Languages written without: a segmenter finds the words first.  A token without a letter,
mark or digit is punctuation: it is no word, and no bigram crosses it.

Three decisions of ours where the recipe is silent.  No bigram crosses the end of a line (a heading and the sentence
under it), nor white space in a language written without it (the two words joined would not occur in the text).  The
Ethiopic word space counts as white space.

Which languages are written without spaces says language/table.csv, column `words`; another segmenter is a row of
SCHEMES.
ICU has dictionaries of Chinese with Japanese, Thai, Lao, Khmer and Burmese words; other languages of their scripts are
cut by the same ones, as well as these can.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from worldclip.kernels.unicode_table import FREE_RANGES, SIMILAR_TO_CJK, SPACE, SPACED, ZERO_WIDTH_JOINER, load_table
from worldclip.language import table as languages

# What a character is to the tokeniser.
PART, WORD, ALONE, JOINT, BARRIER = 0, 1, 2, 3, 4
# PART and WORD make up a token, and a token needs a WORD to be one; ALONE is a token of its own;
# JOINT ends a token; BARRIER ends it too, and no bigram crosses it.

CUT = "\x1f"  # what a segmenter puts between two words
TSHEG = "\u0f0b"  # the mark between Tibetan syllables
TSHEG_WITHOUT_BREAK = "\u0f0c"
ETHIOPIC_WORD_SPACE = "\u1361"
LINE_ENDS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"  # as str.splitlines


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a language is cut into tokens, and how the two words of a bigram are written."""

    name: str
    """As in language/table.csv, column `words`."""
    joiner: str
    """Stands between the words of a bigram."""
    classes: Callable[[], np.ndarray]
    """Class of each code point, (0x110000,) uint8."""
    locale: str | None = None
    """ICU locale whose word dictionary finds the words; None: white space and marks alone do."""


@functools.cache
def _is_word() -> np.ndarray:
    """Letters, marks and digits, (0x110000,) bool."""
    found = (load_table().classes & SPACED) != 0
    found[ZERO_WIDTH_JOINER] = False
    for low, high in FREE_RANGES:
        found[low : high + 1] = [unicodedata.category(chr(c))[0] in "LMN" for c in range(low, high + 1)]
    return found


@functools.cache
def spaced_classes() -> np.ndarray:
    """Classes for languages written with spaces."""
    table, is_word = load_table().classes, _is_word()
    classes = np.where(is_word, WORD, PART).astype(np.uint8)
    alone = (table & SIMILAR_TO_CJK) != 0
    classes[alone] = np.where(is_word[alone], ALONE, BARRIER)
    classes[(table & SPACE) != 0] = JOINT
    classes[[ord(CUT), ord(ETHIOPIC_WORD_SPACE)]] = JOINT
    classes[[ord(x) for x in LINE_ENDS]] = BARRIER
    return classes


@functools.cache
def segmented_classes() -> np.ndarray:
    """Classes for texts whose words are CUT already: only punctuation and white space part them otherwise."""
    classes = spaced_classes().copy()
    classes[classes == ALONE] = WORD
    classes[classes == JOINT] = BARRIER
    classes[ord(CUT)] = JOINT
    return classes


@functools.cache
def tsheg_classes() -> np.ndarray:
    """Classes for Tibetan script: syllables between tshegs."""
    classes = segmented_classes().copy()
    classes[[ord(TSHEG), ord(TSHEG_WITHOUT_BREAK)]] = JOINT
    return classes


SPACES = Scheme(name="space", joiner=" ", classes=spaced_classes)
TSHEGS = Scheme(name="tsheg", joiner=TSHEG, classes=tsheg_classes)


def _icu(locale: str) -> Scheme:
    return Scheme(name="icu", joiner="", classes=segmented_classes, locale=locale)


# By the column `words` of language/table.csv: code of a language -> its scheme.
SCHEMES: dict[str, Callable[[str], Scheme]] = {"space": lambda _: SPACES, "tsheg": lambda _: TSHEGS, "icu": _icu}


def scheme_of(wiki_lang: str) -> Scheme:
    """The scheme of a Wikipedia, by its code (`zh_yue`)."""
    code = languages.from_wikipedia(wiki_lang)
    return SCHEMES[languages.get(code).words](code)


def icu_version() -> str:
    import icu4py

    return str(icu4py.icu_version)


def segment(texts: pa.Array, scheme: Scheme) -> pa.Array:
    """Texts with CUT between words where the scheme has a segmenter, else the texts as they are.

    texts: string or large_string array without nulls.  One text is handed to ICU at a time, so that a long dump needs
    the memory of one article only.
    """
    if scheme.locale is None:
        return texts
    from icu4py.breakers import WordBreaker

    return pa.array([CUT.join(WordBreaker(text, scheme.locale)) for text in texts.to_pylist()], texts.type)
