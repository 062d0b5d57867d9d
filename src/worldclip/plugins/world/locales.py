"""Locales to languages: our code where the language has a row in language/table.csv, else CLDR's own code."""

from __future__ import annotations

import functools
import re

from worldclip.core.errors import require
from worldclip.language import table

_SEPARATORS = re.compile(r"[-_.@]")
# Codes of two letters that are neither ours nor a Wikipedia's; and languages that a script sets apart.
_OTHER_CODES = {"nb": "no", "ak": "tw", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "jw": "jv"}
_BY_SCRIPT = {("pa", "arab"): "pnb", ("pa", "pk"): "pnb", ("zh", "yue"): "zh"}
ROOTS = frozenset({"root", "und"})


@functools.cache
def language_of(locale: str) -> str | None:
    """Return the language of a locale such as `de_CH`, `zh-Hant`, `ca@valencia` or `en_GB.utf8`.

    Our code; the code of CLDR for a language without a row; None for what is no language that CLDR knows.
    """
    if locale in table.by_code() and locale != table.OTHER:
        return locale
    parts = [part.lower() for part in _SEPARATORS.split(locale)]
    code = parts[0]
    if code in ROOTS or code == table.OTHER:
        return None
    if len(parts) > 1 and (code, parts[1]) in _BY_SCRIPT:
        return _BY_SCRIPT[code, parts[1]]
    ours = _by_any_code().get(code)
    return ours or (code if code in _cldr_languages() else None)


def is_main(locale: str) -> bool:
    """Return whether a locale is a bare language, without region, script or variant."""
    return len(_SEPARATORS.split(locale)) == 1


def parent_of(locale: str) -> str:
    """Return the locale that CLDR inherits from, with `_`; "" at the root, and for a script that is not the usual."""
    core = require("babel.core", extra="world")
    exceptions = core.get_global("parent_exceptions")
    if locale in exceptions:
        return str(exceptions[locale])
    head, _, last = locale.rpartition("_")
    is_script = len(last) == 4 and last.isalpha()
    likely = str(core.get_global("likely_subtags").get(head, "")).split("_")
    return "" if is_script and last not in likely else head


@functools.cache
def _by_any_code() -> dict[str, str]:
    """Map codes to ours: ISO 639-3's, CLDR's and Wikipedia's, then our own, which win."""
    rows = table.by_code().values()
    codes: dict[str, str] = {}
    for row in rows:
        codes |= dict.fromkeys((*row.iso639_3, *row.cldr), row.code)
    for row in rows:
        codes |= dict.fromkeys(row.wikipedia, row.code)
    return codes | _OTHER_CODES | {row.code: row.code for row in rows}


@functools.cache
def _cldr_languages() -> frozenset[str]:
    localedata = require("babel.localedata", extra="world")
    return frozenset(localedata.load("en")["languages"]) | frozenset(localedata.locale_identifiers())
