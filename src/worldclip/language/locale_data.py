"""What entry lists and drawn pools share: CLDR data of a locale, as the package babel carries it, facts about emoji."""

from __future__ import annotations

import pickle
from typing import Any

from worldclip.core.errors import require

TONES = frozenset(chr(code) for code in range(0x1F3FB, 0x1F400))
"""EMOJI MODIFIER FITZPATRICK TYPE-1-2 to TYPE-6."""
NAMED_IN = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
"""Languages in which the package `emoji` names all emoji."""


def read_own_data(locale: str, *, extra: str) -> dict[str, Any]:
    """Return the tables of a locale without what it inherits; extra: of worldclip that installs babel.

    babel.localedata.load(locale, merge_inherited=False) would stay in babel's cache under the locale's name, and every
    later load of this locale or of one that inherits from it would lack the inherited names.
    """
    localedata = require("babel.localedata", extra=extra)
    with open(localedata.resolve_locale_filename(locale), "rb") as file:
        data: dict[str, Any] = pickle.load(file)  # a file of the installed package
    return data
