"""Normalise texts as the two profiles of matching define it, in plain Python.

match/matcher/tokenise.py and kernels/nfc.py do the same over bytes; tests compare them with a plain search.
"""

from __future__ import annotations

import re

from worldclip.language.characters import casefold, nfc

PROFILES = ("reference", "unicode", "unicode_fold")
"""Names on disk; `unicode_fold` is profile `unicode` with `fold_case`.  Positions are the constants of tokenise.py."""

_SPACED_MARKS = re.compile("[,.;:?!`]")
_REFERENCE_BLANKS = str.maketrans("\t\n\r", "   ")
_WHITESPACE = re.compile(r"[^\S\x1c-\x1f]+")  # Unicode's White_Space: all of `str.isspace` except U+001C-001F


def normalise(text: str, profile: str) -> str:
    """Return the text in the form that entries are searched in; `unicode` and `unicode_fold` normalise entries alike.

    reference: strip, add a blank at both ends and around each of seven marks, replace tab, LF and CR by blanks.
    unicode: NFC, each run of White_Space to one blank, ends trimmed.  unicode_fold: case folded too, then NFC again.
    """
    if profile == "reference":
        return _SPACED_MARKS.sub(r" \g<0> ", f" {text.strip()} ").translate(_REFERENCE_BLANKS)
    text = nfc(text)
    if profile == "unicode_fold":
        text = nfc(casefold(text))
    return _WHITESPACE.sub(" ", text).strip(" ")
