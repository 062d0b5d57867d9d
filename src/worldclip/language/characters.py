"""Answer questions about characters from the committed table, so that lists and matches are equal on every Python.

`str` and `unicodedata` know the characters of the interpreter's Unicode version: 14.0 on Python 3.11, 15.1 on 3.13.  A
character that was assigned after the table's version has no properties here: it is no letter and no punctuation.

`str` and `re` may be asked for case, composition, whitespace, letters and digits: what Unicode says of the table's
characters has not changed since, and no later character of these versions has a case or composes
(tests/language/test_table.py asks the interpreter).
"""

from __future__ import annotations

import functools

import numpy as np

from worldclip.kernels.unicode_table import CATEGORIES, load_categories

# What `str.strip` removes: White_Space, and four separators of ASCII.
WHITESPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)


def is_in(*categories: str) -> np.ndarray:
    """Return whether each code point is of one of these general categories (`Nd`) or groups (`P`): (0x110000,) bool."""
    is_wanted = np.array([name.startswith(categories) for name in CATEGORIES])
    is_wanted_point: np.ndarray = is_wanted[load_categories()]
    return is_wanted_point


@functools.cache
def punctuation() -> frozenset[str]:
    """Return the characters of the categories P*."""
    return frozenset(map(chr, np.flatnonzero(is_in("P")).tolist()))
