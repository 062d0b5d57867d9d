"""Second drawings of the emoji: Microsoft's Fluent emoji, flat, as the npm package @iconify-json/fluent-emoji-flat."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from worldclip.core.errors import UserError
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.pool.world.parts import Part, Picture, find_files, kind_of

NAME = "fluent"
MAX_ALIASES = 8  # links from an alias to a drawing
_CODE_POINTS = re.compile(r"[0-9a-f]{4,6}(-[0-9a-f]{4,6})*")


def read_fluent(folder: Path) -> Part:
    """Return the drawings below `folder`, the unpacked npm package.  Raises UserError if it is not there."""
    path = _find_one(folder, "icons.json")
    part = Part(
        name=NAME,
        title="Fluent emoji, flat",
        licence="MIT",
        notice="Fluent Emoji by Microsoft Corporation, MIT licence (https://github.com/microsoft/fluentui-emoji), from "
        "the npm package @iconify-json/fluent-emoji-flat. Rendered to PNG.",
    )
    package = path.parent / "package.json"
    if package.is_file():
        part.version = str(_read(package).get("version", ""))
    drawings = _read_icons(str(path), stamp_of(str(path)))
    for code_points, name in sorted(_read(_find_one(folder, "chars.json")).items()):
        subject = code_points.upper().replace("-FE0F", "")
        if not _CODE_POINTS.fullmatch(code_points):
            part.leave_out(code_points, "no code points")
        elif not isinstance(name, str) or _svg(drawings, name) is None:
            part.leave_out(code_points, "no drawing")
        else:
            key = f"{NAME}-{subject}"
            part.pictures.append(Picture(key=key, subject=subject, kind=kind_of(subject), part=NAME, file=name))
    return part


def fluent_svg(folder: Path, name: str) -> str:
    """Return a drawing as SVG.  Raises ValueError if there is none of this name."""
    path = _find_one(folder, "icons.json")
    svg = _svg(_read_icons(str(path), stamp_of(str(path))), name)
    if svg is None:
        raise ValueError(f"no drawing {name!r}")
    return svg


def _svg(drawings: Any, name: str) -> str | None:
    """Return a drawing with the flips of its alias, None if there is none."""
    is_flipped = False
    for _ in range(MAX_ALIASES):
        if name in drawings["icons"]:
            break
        alias = drawings.get("aliases", {}).get(name)
        if alias is None:
            return None
        is_flipped ^= bool(alias.get("hFlip"))
        name = alias["parent"]
    icon = drawings["icons"].get(name)
    if icon is None:
        return None
    width = icon.get("width", drawings.get("width", 16))  # the default of the format
    height = icon.get("height", drawings.get("height", 16))
    body = icon["body"]
    if is_flipped:
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{body}</svg>'


@functools.cache
def _read_icons(path: str, stamp: Stamp) -> Any:
    """Read the drawings once per process; the stamp is an argument so that a changed file is read again."""
    drawings = _read(Path(path))
    if not isinstance(drawings.get("icons"), dict):
        raise UserError(f"{path}: not a set of drawings of the npm package @iconify-json/fluent-emoji-flat")
    return drawings


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); unpack the npm package again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object; unpack the npm package again")
    return record


def _find_one(folder: Path, name: str) -> Path:
    path = next(find_files(folder, name), None)
    if path is None:
        raise UserError(
            f"--fluent is {str(folder)!r}: no {name} in it; unpack the npm package @iconify-json/fluent-emoji-flat"
        )
    return path
