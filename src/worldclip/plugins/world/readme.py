"""README.md of the world pool: sources, licences, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import write_text
from worldclip.plugins.drawings import MAX_ROTATION_DEG, MAX_SCALE, MIN_SCALE
from worldclip.plugins.world.parts import Part
from worldclip.plugins.world.sets import SETS

ABOUT = {"train": "the pool", **{item.folder: item.in_readme for item in SETS}}


def write_readme(path: Path, report: Mapping[str, Any], parts: Sequence[Part], image_px: int) -> None:
    """Write the page; `report` is what build_world returns."""
    sets = []
    for name, about in ABOUT.items():
        if name in report:
            counted = report[name]
            sets.append([f"{name}/", about, counted["samples"], counted["texts"]])
    counts = []
    for part in parts:
        of_part = report["parts"][part.name]
        counts.append([part.title, part.version or "-", part.licence, of_part["pictures"], of_part["texts"]])
    languages = report["languages"]
    many = sum(count >= 1000 for count in languages.values())
    notices = "\n".join(f"- {part.title}: {part.notice}" for part in parts)
    text = f"""# The world pool

WebDataset tars: one sample a picture, `<key>.png` ({image_px} px) and `.json` with `texts` (names, then keywords),
`lang_truth` (their languages), `source` and `licence`. {len(languages):,} languages, {many:,} of them with at least
1,000 texts.

{_table(["folder", "", "pictures", "texts"], sets)}

Pictures that are drawn anew are on another background, rotated by up to {MAX_ROTATION_DEG:g} degrees and scaled by
{MIN_SCALE:g} to {MAX_SCALE:g}. `names.json` has every picture's source, kind and licence, and the name of each subject
by language; `keywords.json` the keywords; `counts.json` all counts, and what was left out.

## Sources and licences

{_table(["source", "version", "licence", "pictures", "texts read"], counts)}

{notices}

## Texts by language

{_table(["language", "texts"], list(languages.items()))}
"""
    write_text(path, text)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table; numbers get thousands separators."""
    lines = [" | ".join(head), " | ".join(["---"] * len(head))]
    for row in rows:
        cells = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)
