"""Tell images from other files by their names, and HEIF by its first bytes: it needs a package of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from worldclip.core.preflight import missing_packages

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".heic", ".heif", ".bmp", ".tif", ".tiff")
_HEIF_SUFFIXES = (".heic", ".heif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")


def is_heif(content: bytes) -> bool:
    """Return whether a file begins as HEIF (ISO/IEC 23008-12) does."""
    return content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS


def needs_heif() -> str:
    """Return which package HEIF needs; empty where it is installed."""
    return "".join(missing_packages("HEIF", ["pillow_heif"], extra="heif"))


def readable_suffixes() -> tuple[str, ...]:
    """Return the suffixes of pictures that can be read, in lower case."""
    if needs_heif():
        return tuple(suffix for suffix in SUFFIXES if suffix not in _HEIF_SUFFIXES)
    return SUFFIXES


def by_suffix(names: Iterable[str]) -> str:
    """Return how many files there are of each suffix, and what HEIF needs: `14 .mov, 3 .heic (HEIF needs ...)`."""
    counts = Counter(os.path.splitext(name)[1].lower() or os.path.basename(name) for name in names)
    description = ", ".join(f"{number:,} {suffix}" for suffix, number in counts.most_common())
    needs = needs_heif()
    if needs and any(suffix in counts for suffix in _HEIF_SUFFIXES):
        description += f" ({needs})"
    return description
