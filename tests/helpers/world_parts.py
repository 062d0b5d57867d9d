"""Small parts of the world pool, written in the formats of their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SQUARE = '<path fill="#d3d3d3" d="M2 2h20v28H2z"/>'
XML = """<?xml version="1.0" encoding="UTF-8" ?>
<!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">
<ldml><identity><version number="$Revision$"/></identity><annotations>
{}
</annotations></ldml>
"""

Annotations = Mapping[str, tuple[str, Sequence[str]]]
"""Emoji -> name, keywords."""


def write_xml(folder: Path, locale: str, annotations: Annotations, derived: bool = False) -> Path:
    rows = []
    for char, (name, keywords) in annotations.items():
        if keywords:
            rows.append(f'<annotation cp="{char}">{" | ".join(keywords)}</annotation>')
        if name:
            rows.append(f'<annotation cp="{char}" type="tts">{name}</annotation>')
    path = folder / ("annotationsDerived" if derived else "annotations") / f"{locale}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(XML.format("\n".join(rows)), encoding="utf-8")
    return path


def write_json(folder: Path, locale: str, annotations: Annotations, derived: bool = False) -> Path:
    kind = "annotationsDerived" if derived else "annotations"
    items = {char: {"default": list(keywords), "tts": [name]} for char, (name, keywords) in annotations.items()}
    path = folder / f"cldr-{kind}" / kind / locale / "annotations.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {kind: {"identity": {"language": locale}, "annotations": items}}
    path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    (folder / f"cldr-{kind}" / "package.json").write_text('{"version": "48.2.0"}')
    return path


def write_fluent(folder: Path, chars: Mapping[str, str], aliases: Mapping[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    icons = {name: {"body": SQUARE} for name in chars.values() if name not in (aliases or {})}
    record = {"prefix": "fluent-emoji-flat", "icons": icons, "aliases": dict(aliases or {}), "width": 32, "height": 32}
    (folder / "icons.json").write_text(json.dumps(record))
    (folder / "chars.json").write_text(json.dumps(dict(chars)))
    (folder / "package.json").write_text('{"version": "1.2.6"}')
    return folder
