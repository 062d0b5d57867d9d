"""Small parts of the world pool, written in the formats of their sources."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tars import tar_of

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


def write_fluent(folder: Path, chars: Mapping[str, str], **bodies: str) -> Path:
    """chars: code points -> name.  bodies: of the drawings by name (default: a square)."""
    folder.mkdir(parents=True, exist_ok=True)
    icons = {name: {"body": bodies.get(name, SQUARE)} for name in chars.values()}
    record = {"prefix": "fluent-emoji-flat", "icons": icons, "width": 32, "height": 32}
    (folder / "icons.json").write_text(json.dumps(record))
    (folder / "chars.json").write_text(json.dumps(dict(chars)))
    (folder / "package.json").write_text('{"version": "1.2.6"}')
    return folder


def write_stamps(folder: Path, captions: Mapping[str, str], picture: bytes) -> Path:
    """captions: name -> content of its .txt; every stamp has the same picture."""
    for name, content in captions.items():
        path = folder / "stamps" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        path.with_suffix(".png").write_bytes(picture)
    return folder


def write_rcc(path: Path, files: Mapping[str, tuple[int, bytes]]) -> Path:
    """Write a resource file of Qt; files: path in its folders -> flags and data as stored."""
    root: dict[str, Any] = {}
    for name, file in files.items():
        *folders, last = name.split("/")
        folder = root
        for step in folders:
            folder = folder.setdefault(step, {})
        folder[last] = file
    names, data, nodes, queue = b"", b"", [], [("", root)]
    for name, content in queue:  # it grows: the children of a folder follow each other
        if isinstance(content, dict):
            nodes.append(struct.pack(">iHiiq", len(names), 2, len(content), len(queue), 0))
            queue += content.items()
        else:
            flags, stored = content
            nodes.append(struct.pack(">iHHHiq", len(names), flags, 0, 0, len(data), 0))
            data += struct.pack(">I", len(stored)) + stored
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    body = b"".join(nodes)
    start = 20
    header = struct.pack(">4siiii", b"qres", 2, start, start + len(body), start + len(body) + len(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + body + data + names)
    return path


def packed(content: bytes) -> tuple[int, bytes]:
    """Return a file of a resource file, packed with zlib."""
    return 1, struct.pack(">I", len(content)) + zlib.compress(content)


def write_appstream(folder: Path, catalogue: str, icons: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "main_Components-amd64.yml.gz", "wt", encoding="utf-8") as file:
        file.write(catalogue)
    (folder / "main_icons-128x128.tar.gz").write_bytes(tar_of(icons, "w:gz"))
    return folder
