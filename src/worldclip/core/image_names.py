"""Tell images from other files by their names, and HEIF by its first bytes: it needs a package of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

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


def image_files(paths: Iterable[Path]) -> tuple[list[Path], str]:
    """Return the files with images that can be read, and what else there is, as `by_suffix` writes it."""
    needs = needs_heif()
    images: list[Path] = []
    left_out: list[Path] = []
    is_heif_left_out = False
    for path in paths:
        suffix = path.suffix.lower()
        if needs and suffix in _HEIF_SUFFIXES:
            left_out.append(path)
            is_heif_left_out = True
        elif suffix in SUFFIXES:
            images.append(path)
        elif not path.name.startswith("."):
            left_out.append(path)
    description = by_suffix(left_out)
    if is_heif_left_out:
        description += f" ({needs})"
    return images, description


def by_suffix(paths: Iterable[Path]) -> str:
    """Return how many files there are of each suffix: `14 .heic, 3 .mov`."""
    counts = Counter(path.suffix.lower() or path.name for path in paths)
    return ", ".join(f"{number:,} {suffix}" for suffix, number in counts.most_common())
