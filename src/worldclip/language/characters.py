"""Answer questions about characters from the committed table, so that lists and matches are equal on every Python.

`str` and `unicodedata` know the characters of the interpreter's Unicode version: 14.0 on Python 3.11, 15.1 on 3.13.  A
character that was assigned after the table's version has no properties here: it is no letter, no punctuation, has no
case, and composes with nothing.  What Unicode says of older characters has not changed since
(tests/language/test_table.py compares interpreters), so `str` may answer for those.

Whitespace has not changed either: `str.strip`, `str.split`, `str.isspace` and `\\s` may be used as they are.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable

import numpy as np

from worldclip.kernels.unicode_table import CATEGORIES, UNICODE_VERSION, load_categories

# What `str.strip` removes: White_Space, and four separators of ASCII.
WHITESPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def is_in(*categories: str) -> np.ndarray:
    """Return whether each code point is of one of these general categories (`Nd`) or groups (`P`): (0x110000,) bool."""
    is_wanted = np.array([name.startswith(categories) for name in CATEGORIES])
    of_code_points: np.ndarray = is_wanted[load_categories()]
    return of_code_points


@functools.cache
def punctuation() -> frozenset[str]:
    """Return the characters of the categories P*."""
    return frozenset(map(chr, np.flatnonzero(is_in("P")).tolist()))


@functools.cache
def digit_class() -> str:
    """Return what stands for `\\d` in the brackets of a regular expression."""
    return _ranges(is_in("Nd"))


@functools.cache
def word_class() -> str:
    """Return what stands for `\\w` in the brackets of a regular expression."""
    return _ranges(is_in("L", "N")) + "_"


@functools.cache
def mark_class() -> str:
    """Return what stands for the combining marks, which `\\w` leaves out, in the brackets of a regular expression."""
    return _ranges(is_in("M"))


def _change_known(change: Callable[[str], str], text: str) -> str:
    """Apply a change of `str` to the pieces between characters that the table does not have.

    An unassigned character ends every context that such a change looks at, as the end of a text does.
    """
    newer = _newer_characters()
    if newer is None or text.isascii():
        return change(text)
    pieces = newer.split(text)  # piece, newer character, piece, ...
    pieces[::2] = [change(piece) for piece in pieces[::2]]
    return "".join(pieces)


# As the methods of `str`, and as `unicodedata.normalize("NFC", text)`.
lower = functools.partial(_change_known, str.lower)
upper = functools.partial(_change_known, str.upper)
casefold = functools.partial(_change_known, str.casefold)
nfc = functools.partial(_change_known, functools.partial(unicodedata.normalize, "NFC"))


def title(character: str) -> str:
    """Return `character.title()`, of one character only.

    In a text the letter after U+10FC, U+A7F2 to U+A7F4 or U+AB69 depends on the version of Unicode.
    """
    return _change_known(str.title, character)


@functools.cache
def _newer_characters() -> re.Pattern[str] | None:
    """Return a pattern of one character that the interpreter has and the table has not; None if there is none."""
    if unicodedata.unidata_version == UNICODE_VERSION:
        return None
    is_newer = is_in("Cn")
    is_newer[is_newer] = [unicodedata.category(chr(c)) != "Cn" for c in np.flatnonzero(is_newer).tolist()]
    if not is_newer.any():
        return None
    return re.compile(f"([{_ranges(is_newer)}])")


def _ranges(mask: np.ndarray) -> str:
    """Return the code points under a mask as ranges of a regular expression."""
    bounds = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
    return "".join(f"\\U{start:08x}-\\U{end - 1:08x}" for start, end in bounds.tolist())
