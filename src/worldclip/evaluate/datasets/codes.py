"""Language codes of data sets as ours."""

from __future__ import annotations

from collections.abc import Sequence

from worldclip.language import table as languages

# Codes of Crossmodal-3600, XTD-10 and others that are not ours.
OUR_CODES = {"fil": "tl", "quz": "qu", "iw": "he", "in": "id", "nb": "no", "jp": "ja"}


def our_code(code: str) -> str:
    """A data set's language code as ours; one that our table lacks stays as it is, in lower case."""
    code = code.lower().replace("-", "_")
    if code in OUR_CODES:
        return OUR_CODES[code]
    try:
        return languages.from_wikipedia(code)
    except KeyError:
        return code


def our_codes(codes: Sequence[str]) -> dict[str, str]:
    """their code -> ours, for codes like FLORES' (`deu_Latn`) too.

    Where several mean one language of ours (zho_Hans and zho_Hant), each keeps its own: they are asked apart.
    """
    found = {code: _from_flores(code) if languages.scheme_of(code) == "glotlid" else our_code(code) for code in codes}
    counts = {ours: list(found.values()).count(ours) for ours in found.values()}
    return {code: code if counts[ours] > 1 or ours == languages.OTHER else ours for code, ours in found.items()}


def _from_flores(code: str) -> str:
    return languages.from_lid(code, scheme="glotlid")
