"""English names of the scripts in the table of languages, by their codes in ISO 15924."""

from __future__ import annotations

NAMES = {
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Cans": "Canadian syllabics", "Cher": "Cherokee",
    "Cyrl": "Cyrillic", "Deva": "Devanagari", "Ethi": "Ethiopic", "Geor": "Georgian", "Goth": "Gothic", "Grek": "Greek",
    "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hans": "Simplified Chinese", "Hant": "Traditional Chinese",
    "Hebr": "Hebrew", "Jpan": "Japanese", "Khmr": "Khmer", "Knda": "Kannada", "Kore": "Korean", "Laoo": "Lao",
    "Latn": "Latin", "Mlym": "Malayalam", "Mtei": "Meitei", "Mymr": "Myanmar", "Nkoo": "N'Ko", "Olck": "Ol Chiki",
    "Orya": "Odia", "Sinh": "Sinhala", "Syrc": "Syriac", "Taml": "Tamil", "Telu": "Telugu", "Tfng": "Tifinagh",
    "Thaa": "Thaana", "Thai": "Thai", "Tibt": "Tibetan", "Zyyy": "no script of its own",
}  # fmt: skip
