"""Find the words of texts in every language: the tokens that n-grams are counted over.

Languages written with spaces: split at whitespace; each ASCII punctuation mark and each character that is CJK or
similar is a token of its own.  Languages written without: a segmenter finds the words first.  A token without a letter,
mark or digit is punctuation: it is no word, and no bigram crosses it.

The recipe is silent on three points, decided here.  No bigram crosses the end of a line (a heading and the sentence
after it), nor whitespace in a language written without it (the two words joined would not occur in the text).  The
Ethiopic word space counts as whitespace.

The column `words` of language/table.csv says how a language is written; `scheme_of` maps it to a segmenter.  ICU has
dictionaries of Chinese with Japanese, Thai, Lao, Khmer and Burmese words; other languages of these scripts are cut by
the same ones, as well as these can.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from worldclip.kernels.unicode_table import FREE_RANGES, SIMILAR_TO_CJK, SPACE, SPACED, ZERO_WIDTH_JOINER, load_table
from worldclip.language import characters
from worldclip.language.table import INSTALLED, Languages

# Classes of characters.  PART and WORD make up a token, and a token needs a WORD to be a word; ALONE is a token of its
# own; JOINT ends a token; BARRIER ends it too, and no bigram crosses it.
PART, WORD, ALONE, JOINT, BARRIER = 0, 1, 2, 3, 4

CUT = "\x1f"  # unit separator: a segmenter puts it between two words
TSHEG = "\u0f0b"  # the mark between Tibetan syllables
TSHEG_WITHOUT_BREAK = "\u0f0c"
ETHIOPIC_WORD_SPACE = "\u1361"
LINE_ENDS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"  # the line ends of str.splitlines


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """How a language is cut into tokens, and how the two words of a bigram are written."""

    joiner: str  # stands between the words of a bigram
    classes: Callable[[], np.ndarray]  # class of each code point, (0x110000,) uint8
    locale: str | None = None  # ICU locale whose word dictionary finds the words; None: whitespace and marks do


@functools.cache
def _is_word() -> np.ndarray:
    """Return whether each code point is a letter, mark or digit: (0x110000,) bool."""
    is_word: np.ndarray = (load_table().classes & SPACED) != 0
    is_word[ZERO_WIDTH_JOINER] = False
    has_category = characters.is_in("L", "M", "N")
    for low, high in FREE_RANGES:
        is_word[low : high + 1] = has_category[low : high + 1]
    return is_word


@functools.cache
def spaced_classes() -> np.ndarray:
    """Return the classes for languages written with spaces."""
    table = load_table().classes
    is_word = _is_word()
    classes = np.where(is_word, WORD, PART).astype(np.uint8)
    is_alone = (table & SIMILAR_TO_CJK) != 0
    classes[is_alone] = np.where(is_word[is_alone], ALONE, BARRIER)
    classes[(table & SPACE) != 0] = JOINT
    classes[[ord(CUT), ord(ETHIOPIC_WORD_SPACE)]] = JOINT
    classes[[ord(x) for x in LINE_ENDS]] = BARRIER
    return classes


@functools.cache
def ascii_classes() -> np.ndarray:
    """Return the classes for languages written with spaces if only the marks of ASCII are punctuation.

    Every other token is a word then, `—` and `»` too: the reference has no other marks.
    """
    classes = spaced_classes().copy()
    classes[classes == PART] = WORD
    is_other_mark = (load_table().classes & SIMILAR_TO_CJK != 0) & (np.arange(classes.size) > 0x7F)
    classes[is_other_mark & (classes == BARRIER)] = ALONE
    return classes


@functools.cache
def segmented_classes() -> np.ndarray:
    """Return the classes for texts with CUT between words, which only punctuation and whitespace part otherwise."""
    classes = spaced_classes().copy()
    classes[classes == ALONE] = WORD
    classes[classes == JOINT] = BARRIER
    classes[ord(CUT)] = JOINT
    return classes


@functools.cache
def tsheg_classes() -> np.ndarray:
    """Return the classes for Tibetan script: syllables between tshegs."""
    classes = segmented_classes().copy()
    classes[[ord(TSHEG), ord(TSHEG_WITHOUT_BREAK)]] = JOINT
    return classes


SPACES = Scheme(joiner=" ", classes=spaced_classes)
ASCII_SPACES = Scheme(joiner=" ", classes=ascii_classes)
TSHEGS = Scheme(joiner=TSHEG, classes=tsheg_classes)


def scheme_of(
    code: str, languages: Languages = INSTALLED, punctuation: Literal["unicode", "ascii"] = "unicode"
) -> Scheme:
    """Return the scheme of a language.

    punctuation: what ends a bigram in a language written with spaces: every token without letter, mark or digit, or
    ASCII's marks only.
    """
    words = languages.get(code).words
    if words == "icu":
        return Scheme(joiner="", classes=segmented_classes, locale=code)
    if words == "tsheg":
        return TSHEGS
    return ASCII_SPACES if punctuation == "ascii" else SPACES


def icu_version() -> str:
    import icu4py

    return str(icu4py.icu_version)


def segment(texts: pa.Array, scheme: Scheme) -> pa.Array:
    """Return texts with CUT between words if the scheme has a segmenter, else the texts as they are.

    texts: string or large_string array without nulls.  ICU gets one text at a time, so a long dump needs the memory of
    one article only.
    """
    if scheme.locale is None:
        return texts
    from icu4py.breakers import WordBreaker

    return pa.array([CUT.join(WordBreaker(text, scheme.locale)) for text in texts.to_pylist()], texts.type)
