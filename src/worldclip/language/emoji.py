"""Facts about emoji that entry lists and drawn pools share."""

TONES = frozenset(chr(code) for code in range(0x1F3FB, 0x1F400))
"""EMOJI MODIFIER FITZPATRICK TYPE-1-2 to TYPE-6."""
NAMED_IN = ("en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar")
"""Languages in which the package `emoji` names all emoji."""
