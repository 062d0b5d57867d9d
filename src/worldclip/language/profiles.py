"""The two profiles of matching, in plain Python: what a text becomes before entries are looked for in it.

`match/matcher/tokenise.py` and `kernels/nfc.py` do the same over bytes; the tests hold the two against each other.
"""

from __future__ import annotations

import re
import unicodedata

from worldclip.core.errors import UserError

PROFILES = ("reference", "unicode", "unicode_fold")
"""Names on disk; `unicode_fold` is profile `unicode` with `fold_case`.  Positions are tokenise.py's numbers."""

_SPACED_MARKS = re.compile("[,.;:?!`]")
_REFERENCE_BLANKS = str.maketrans("\t\n\r", "   ")
_WHITE_SPACE = re.compile(r"[^\S\x1c-\x1f]+")  # White_Space is what `str.isspace` holds but for U+001C-001F


def profile_name(profile: str, fold_case: bool = False) -> str:
    """One of PROFILES from a profile and the option of case folding; ValueError where they do not go together."""
    if profile not in PROFILES:
        raise UserError(f"match.profile is {profile!r}; it is one of {', '.join(PROFILES)}")
    if fold_case and profile == "reference":
        raise UserError("match.fold_case is true with match.profile 'reference'; only profile 'unicode' folds case")
    return "unicode_fold" if fold_case else profile


def normalise(text: str, profile: str) -> str:
    """The text as entries are looked for in it; for `unicode` and `unicode_fold` entries are normalised alike.

    reference: stripped, a blank at both ends, each of seven marks between two blanks, tab, LF and CR made blanks.
    unicode: NFC, runs of White_Space made one blank, ends trimmed.  unicode_fold: case folded as well, then NFC again.
    """
    if profile == "reference":
        return _SPACED_MARKS.sub(r" \g<0> ", f" {text.strip()} ").translate(_REFERENCE_BLANKS)
    text = unicodedata.normalize("NFC", text)
    if profile == "unicode_fold":
        text = unicodedata.normalize("NFC", text.casefold())
    return _WHITE_SPACE.sub(" ", text).strip(" ")
