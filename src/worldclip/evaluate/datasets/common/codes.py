"""Language codes of datasets as ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from worldclip.language import table as languages

# Codes of Crossmodal-3600, XTD-10 and others that differ from ours.
OUR_CODES = {"fil": "tl", "quz": "qu", "iw": "he", "in": "id", "nb": "no", "jp": "ja"}


def our_code(code: str) -> str:
    """Return our code of a dataset's language; a code that our table lacks stays as it is, in lower case."""
    code = code.lower().replace("-", "_")
    if code in OUR_CODES:
        return OUR_CODES[code]
    try:
        return languages.from_wikipedia(code)
    except KeyError:
        return code


def our_codes(codes: Sequence[str]) -> dict[str, str]:
    """Map each of a dataset's codes to ours; codes like FLORES' (`deu_Latn`) are understood too.

    Codes that share one language of ours (zho_Hans and zho_Hant) stay as they are: they are evaluated separately.
    """
    ours = {
        code: languages.from_lid(code, scheme="glotlid") if languages.scheme_of(code) == "glotlid" else our_code(code)
        for code in codes
    }
    times_used = Counter(ours.values())
    return {code: code if times_used[our] > 1 or our == languages.OTHER else our for code, our in ours.items()}
