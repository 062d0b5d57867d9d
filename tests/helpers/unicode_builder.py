"""Build the committed table of kernels/unicode_table.py, from a Python whose `unicodedata` has the table's version."""

import itertools
import unicodedata
from pathlib import Path

import numpy as np

from worldclip.kernels.unicode_table import (
    CATEGORIES,
    COMBINING_SHIFT,
    FOLDS,
    FREE_RANGES,
    MARK,
    NFC_MAYBE,
    NFC_NO,
    NUM_CODE_POINTS,
    SIMILAR_TO_CJK,
    SPACE,
    SPACED,
    TABLE_PATH,
    UNICODE_VERSION,
    ZERO_WIDTH_JOINER,
    UnicodeTable,
)

# "CJK or similar" of the reference implementation (its own choice of blocks and marks: kana is not among them).
SIMILAR_TO_CJK_RANGES = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
    (0x2CEB0, 0x2EBEF), (0xF900, 0xFAFF), (0x2E80, 0x2EFF), (0x2F00, 0x2FDF), (0x2FF0, 0x2FFF), (0x0E00, 0x0E7F),
    (0x0E80, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x0F00, 0x0FFF), (0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60),
    (0x7B, 0x7E),
]  # fmt: skip
SIMILAR_TO_CJK_MARKS = "，。、；：？！“”‘’（）【】《》〈〉「」『』～—"

HANGUL_VOWELS, HANGUL_TAILS = range(0x1161, 0x1176), range(0x11A8, 0x11C3)

_FREE = frozenset(c for low, high in FREE_RANGES for c in range(low, high + 1))
_SIMILAR = frozenset(c for low, high in SIMILAR_TO_CJK_RANGES for c in range(low, high + 1)) | {
    *map(ord, SIMILAR_TO_CJK_MARKS)
}


def build_table() -> UnicodeTable:
    """Compute the table from `unicodedata`.  Raises RuntimeError if that is not UNICODE_VERSION."""
    _check_version()
    characters = [chr(c) for c in range(NUM_CODE_POINTS)]
    changes = [c for c, x in enumerate(characters) if _decomposition(x) and not 0xAC00 <= c <= 0xD7A3]
    folds = [c for c, x in enumerate(characters) if x.casefold() != x]
    composites = {
        _pair(*_decomposition(characters[c])): c
        for c in changes
        if len(_decomposition(characters[c])) == 2 and unicodedata.normalize("NFC", characters[c]) == characters[c]
    }
    pairs = sorted(composites)
    full = [[ord(x) for x in unicodedata.normalize("NFD", characters[c])] for c in changes]
    folded = [[ord(x) for x in characters[c].casefold()] for c in folds]
    seconds = {pair & 0x1FFFFF for pair in pairs} | set(HANGUL_VOWELS) | set(HANGUL_TAILS)
    return UnicodeTable(
        classes=np.array([_class_of(x, c in seconds) for c, x in enumerate(characters)], np.uint16),
        decompose_from=np.array(changes, np.int32),
        decompose_index=_offsets(full),
        decomposed=np.array([*itertools.chain(*full)], np.int32),
        compose_pairs=np.array(pairs, np.int64),
        composed=np.array([composites[pair] for pair in pairs], np.int32),
        fold_from=np.array(folds, np.int32),
        fold_index=_offsets(folded),
        folded=np.array([*itertools.chain(*folded)], np.int32),
    )


def build_categories() -> np.ndarray:
    """Compute the general categories as `load_categories` returns them; otherwise as `build_table`."""
    _check_version()
    return np.array([CATEGORIES.index(unicodedata.category(chr(c))) for c in range(NUM_CODE_POINTS)], np.uint8)


def _check_version() -> None:
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise RuntimeError(f"this Python has Unicode {unicodedata.unidata_version}; use one with {UNICODE_VERSION}")


def write_table(table: UnicodeTable, categories: np.ndarray, path: Path = TABLE_PATH) -> None:
    """Write the table, classes and categories as runs of equal values."""
    starts, category_starts = _run_starts(table.classes), _run_starts(categories)
    runs = {
        "run_starts": starts,
        "run_classes": table.classes[starts],
        "category_starts": category_starts,
        "run_categories": categories[category_starts],
    }
    rest = {name: array for name, array in table._asdict().items() if name != "classes"}
    np.savez_compressed(path, **runs, **rest)


def _run_starts(values: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.diff(values, prepend=values[0] ^ 1)).astype(np.int32)


def _class_of(x: str, is_second: bool) -> int:
    c, category = ord(x), unicodedata.category(x)
    bits = {
        SPACED: (category[0] in "LMN" or c == ZERO_WIDTH_JOINER) and c not in _FREE,
        MARK: category[0] == "M",
        SPACE: x.isspace() and not 0x1C <= c <= 0x1F,  # str.isspace is White_Space and these four
        SIMILAR_TO_CJK: c in _SIMILAR,
        NFC_NO: unicodedata.normalize("NFC", x) != x,
        NFC_MAYBE: is_second,
        FOLDS: x.casefold() != x,
    }
    return sum(bit for bit, is_set in bits.items() if is_set) | unicodedata.combining(x) << COMBINING_SHIFT


def _decomposition(x: str) -> list[int]:
    """Return the canonical mapping of one step, empty if there is none."""
    mapping = unicodedata.decomposition(x)
    return [] if not mapping or mapping[0] == "<" else [int(code, 16) for code in mapping.split()]


def _pair(first: int, second: int) -> int:
    return first << 21 | second


def _offsets(lists: list[list[int]]) -> np.ndarray:
    return np.cumsum([0] + [len(values) for values in lists]).astype(np.int32)


if __name__ == "__main__":
    write_table(build_table(), build_categories())
