"""Sets of drawings as Iconify packs them for npm: Fluent's emoji, and flags of several artists.

icons.json    {"prefix": "flag", "width": 512, "height": 512, "icons": {"fr-4x3": {"body": "<path .../>"}},
               "aliases": {...}}
chars.json    {"1f34e": "red-apple"}: the drawings of emoji, where a set has any
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.core.safe_path import safe_join
from worldclip.plugins.drawings import PRESENTATION
from worldclip.plugins.world.parts import Part, Picture, find_files, flag_of, kind_of

FLUENT = "fluent"
FLAGS = "flags"
FILE = "icons.json"
DEFAULT_SIDE = 16  # Iconify's default side of a drawing
MAX_ALIASES = 8  # links from an alias to a drawing
_CODE_POINTS = re.compile(r"[0-9a-f]{4,6}(-[0-9a-f]{4,6})*")
_TERRITORY = re.compile(r"([a-z]{2})(-4x3|-1x1)?")


def read_fluent(folder: Path) -> Part:
    """Return the drawings of Fluent below `folder`, the unpacked npm package.  Raises UserError if it is not there."""
    part = Part(
        name=FLUENT,
        title="Fluent emoji, flat",
        licence="MIT",
        notice="Fluent Emoji by Microsoft Corporation, MIT licence (https://github.com/microsoft/fluentui-emoji), from "
        "the npm package @iconify-json/fluent-emoji-flat. Rendered to PNG.",
    )
    (path, *_) = _sets(folder, FLUENT)
    part.version = _version(path)
    drawings = read_drawings(str(path), stamp_of(str(path)))
    chars = next(find_files(folder, "chars.json"), None)
    if chars is None:
        raise UserError(f"--fluent is {str(folder)!r}: no chars.json in it; unpack the npm package again")
    for code_points, name in sorted(_read(chars).items()):
        if not _CODE_POINTS.fullmatch(code_points):
            part.leave_out(code_points, "no code points")
        elif not isinstance(name, str) or _svg(drawings, name) is None:
            part.leave_out(code_points, "no drawing")
        else:
            subject = code_points.upper().replace(PRESENTATION, "")
            file = f"{path.relative_to(folder).as_posix()}#{name}"
            key = f"{FLUENT}-{subject}"
            part.pictures.append(Picture(key=key, subject=subject, kind=kind_of(subject), part=FLUENT, file=file))
    return part


def read_flags(folder: Path) -> Part:
    """Return the flags of territories in all sets below `folder`.  Raises UserError if there is no set."""
    part = Part(
        name=FLAGS,
        title="Flags by other artists",
        licence="MIT",
        notice="Flag Icons by Panayiotis Lipiridis (https://github.com/lipis/flag-icons), Circle Flags by HatScripts "
        "(https://github.com/HatScripts/circle-flags) and Flagpack by Yummygum "
        "(https://github.com/Yummygum/flagpack-core), MIT licence each, from the npm packages @iconify-json/flag, "
        "circle-flags and flagpack. Rendered to PNG.",
    )
    versions = []
    for path in _sets(folder, FLAGS):
        drawings = read_drawings(str(path), stamp_of(str(path)))
        prefix = re.sub(r"[^a-z0-9-]", "", str(drawings.get("prefix", "")))
        versions.append(f"{prefix} {_version(path)}")
        for name in sorted({*drawings["icons"], *drawings.get("aliases", {})}):
            match = _TERRITORY.fullmatch(name)
            if match and _svg(drawings, name) is not None:
                file = f"{path.relative_to(folder).as_posix()}#{name}"
                key = f"{FLAGS}-{prefix}-{name}"
                subject = flag_of(match[1].upper())
                part.pictures.append(Picture(key=key, subject=subject, kind="flag", part=FLAGS, file=file))
    part.version = ", ".join(versions)
    return part


def drawing(folder: Path, file: str) -> bytes:
    """Return a drawing as SVG; `file` is Picture.file.  Raises ValueError if the set has no drawing of this name."""
    place, _, name = file.rpartition("#")
    path = safe_join(folder, place)
    svg = _svg(read_drawings(str(path), stamp_of(str(path))), name)
    if svg is None:
        raise ValueError(f"no drawing {name!r}")
    return svg.encode()


def _sets(folder: Path, part: str) -> list[Path]:
    paths = list(find_files(folder, FILE))
    if not paths:
        raise UserError(
            f"--{part} is {str(folder)!r}: no {FILE} in it; docs/world.md says which npm packages to unpack"
        )
    return paths


def _svg(drawings: Any, name: str) -> str | None:
    """Return a drawing with the flips of its alias, None if there is none."""
    is_flipped = False
    try:
        for _ in range(MAX_ALIASES):
            if name in drawings["icons"]:
                break
            alias = drawings["aliases"][name]
            is_flipped ^= bool(alias.get("hFlip"))
            name = alias["parent"]
        icon = drawings["icons"][name]
        body = icon["body"]
        width, height = (float(icon.get(side, drawings.get(side, DEFAULT_SIDE))) for side in ("width", "height"))
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    if is_flipped:
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'


@functools.cache
def read_drawings(path: str, stamp: Stamp) -> Any:
    """Read a set once per process; the stamp is an argument so that a changed file is read again."""
    drawings = _read(Path(path))
    if not isinstance(drawings.get("icons"), dict) or not isinstance(drawings.get("aliases", {}), dict):
        raise UserError(f"{path}: not a set of drawings of Iconify; unpack the npm package again")
    return drawings


def _version(path: Path) -> str:
    package = path.parent / "package.json"
    return str(_read(package).get("version", "")) if package.is_file() else "unknown"


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); unpack the npm package again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object; unpack the npm package again")
    return record
