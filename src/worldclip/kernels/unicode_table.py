"""Load the properties of each code point from one committed table of one Unicode version.

The version is 14.0.0, that of the oldest supported Python, so that a text matches the same entries on every Python.
Characters assigned later count as unassigned: they bound words as punctuation does, and are neither composed nor
folded.  For assigned characters Unicode's stability policy freezes NFC, and case folding has not changed either.
language/characters.py answers from this table where `str` and `unicodedata` answer by the interpreter's version.

`python tests/helpers/unicode_builder.py` renews `unicode_table.npz`, from a Python whose `unicodedata` has that
version.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

UNICODE_VERSION = "14.0.0"
TABLE_PATH = Path(__file__).with_name("unicode_table.npz")
NUM_CODE_POINTS = 0x110000

# Bits of a code point's class (uint16); its canonical combining class is the upper byte.
SPACED, MARK, SPACE, SIMILAR_TO_CJK, NFC_NO, NFC_MAYBE, FOLDS = 1, 2, 4, 8, 16, 32, 64
COMBINING_SHIFT = 8

# Scripts written without spaces: a word may begin or end between any two of their characters (our own definition).
FREE_RANGES = [
    (0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x19E0, 0x19FF), (0x2E80, 0x2FDF), (0x3005, 0x3007),
    (0x3021, 0x3029), (0x3038, 0x303B), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x323AF),
]  # fmt: skip
ZERO_WIDTH_JOINER = 0x200D

# General categories, by the position that the table holds (Unicode's names, table 4-4 of the standard).
CATEGORIES = (
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn",
)  # fmt: skip


class UnicodeTable(NamedTuple):
    """Arrays over code points c, for numba kernels.

    classes (0x110000,) uint16; full canonical decompositions: decomposed[decompose_index[k] : decompose_index[k + 1]]
    where decompose_from[k] == c; primary composites: composed[k] where compose_pairs[k] == first << 21 | second; full
    case foldings: folded[fold_index[k] : fold_index[k + 1]] where fold_from[k] == c.  The searched arrays are sorted.
    Hangul syllables follow from arithmetic and are not listed.
    """

    classes: np.ndarray
    decompose_from: np.ndarray
    decompose_index: np.ndarray
    decomposed: np.ndarray
    compose_pairs: np.ndarray
    composed: np.ndarray
    fold_from: np.ndarray
    fold_index: np.ndarray
    folded: np.ndarray


@functools.cache
def load_table() -> UnicodeTable:
    """Read the committed table (about 2 ms, once per process)."""
    with np.load(TABLE_PATH) as stored:
        lengths = np.diff(stored["run_starts"], append=NUM_CODE_POINTS)
        arrays = {name: stored[name] for name in UnicodeTable._fields if name != "classes"}
        table = UnicodeTable(classes=np.repeat(stored["run_classes"], lengths), **arrays)
    for array in table:
        array.flags.writeable = False
    return table


@functools.cache
def load_categories() -> np.ndarray:
    """Return the position in CATEGORIES of each code point's general category: (0x110000,) uint8."""
    with np.load(TABLE_PATH) as stored:
        lengths = np.diff(stored["category_starts"], append=NUM_CODE_POINTS)
        categories: np.ndarray = np.repeat(stored["run_categories"], lengths)
    categories.flags.writeable = False
    return categories
