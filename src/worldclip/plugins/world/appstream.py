"""Icons of programs, with their names, summaries and keywords: AppStream's catalogue, as Debian's archive has it.

<folder>/.../*Components-*.yml, .yml.gz      one YAML document per program
<folder>/.../*icons-128x128*.tar, .tar.gz    `<package>_<icon>.png`
"""

from __future__ import annotations

import functools
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldclip.core import unpack
from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.plugins.world.parts import Part, Picture, Text, find_files, plain_key

NAME = "appstream"
SIDE_PX = 128
ENGLISH = "C"  # the locale of texts that are not translated
_FIELDS = ("ID", "Name", "Summary", "Keywords", "Icon")
MAX_ICON_BYTES = 4 * 2**20


def read_appstream(folder: Path) -> Part:
    """Return the icons below `folder` with the texts of their programs.  Raises UserError if files are missing.

    A program without an icon, and an icon without a program, are left out.
    """
    part = Part(
        name=NAME,
        title="AppStream icons",
        licence="various",
        notice="AppStream catalogue of Debian (https://appstream.debian.org): each icon and its texts have the licence "
        "of their program; metadata are under free licences that their authors chose. Put on white.",
    )
    catalogues = [path for path in find_files(folder, "*Components-*") if path.name.endswith((".yml", ".yml.gz"))]
    icons = _icons_below(folder)
    if not catalogues or not icons:
        raise UserError(
            f"--appstream is {str(folder)!r}: no *Components-*.yml.gz, or no *icons-{SIDE_PX}x{SIDE_PX}*.tar.gz with "
            "icons in it; docs/world.md says how to get them"
        )
    yaml = require("yaml", extra="world")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    used: set[str] = set()
    for path in catalogues:
        for number, document in enumerate(_documents(path, part)):
            try:
                program = yaml.load(document, Loader=loader)
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                part.leave_out(f"{path.name}, document {number}", f"cannot be read: {type(error).__name__}")
                continue
            if isinstance(program, dict) and "ID" in program:
                _add_program(program, icons, used, part)
    for name in sorted(set(icons) - used):
        part.leave_out(name, "icon of no program")
    return part


def _add_program(program: dict[str, Any], icons: dict[str, bytes], used: set[str], part: Part) -> None:
    """Add the icon and the texts of a program."""
    identity = str(program.get("ID"))
    try:
        cached = [icon["name"] for icon in program["Icon"]["cached"] if icon["width"] == SIDE_PX]
        names = program["Name"]
        summaries = program.get("Summary", {})
        keywords = program.get("Keywords", {})
        if not all(isinstance(by_locale, dict) for by_locale in (names, summaries, keywords)):
            raise TypeError("texts without locales")
        locales = sorted({*names, *summaries, *keywords})
    except (KeyError, TypeError):
        part.leave_out(identity, "no icon or no name")
        return
    icon = next((name for name in cached if name in icons), None)
    if icon is None:
        part.leave_out(identity, "no icon in the archive")
        return
    used.add(icon)
    subject = plain_key(NAME, identity)
    part.pictures.append(Picture(key=subject, subject=subject, kind="icon", part=NAME, file=icon))
    for locale in locales:
        texts = [names.get(locale), summaries.get(locale)]
        if isinstance(keywords.get(locale), list):
            texts += keywords[locale]
        words = []
        for text in texts:
            word = text if isinstance(text, str) else ""
            words.append(word.strip())
        language = "en" if locale == ENGLISH else str(locale)
        part.texts.append(Text(subject, language, words[0], tuple(words[1:])))


def _documents(path: Path, part: Part) -> Iterator[str]:
    """Yield the text of each document with only the fields of _FIELDS: long descriptions take most of the time."""
    lines: list[str] = []
    is_read = False
    try:
        for content in unpack.iter_lines(path):
            line = content.decode("utf-8", "replace")
            if line.startswith("---"):
                yield "".join(lines)
                lines = []
            elif not line[0].isspace() and not line.startswith("-"):
                is_read = line.split(":")[0] in _FIELDS
            if is_read and not line.startswith("---"):
                lines.append(line)
    except (OSError, BadShard) as error:
        part.leave_out(path.name, f"ends early: {error}")
        return
    yield "".join(lines)


def _icons_below(folder: Path) -> dict[str, bytes]:
    """Return the icons of the tars below a folder by name."""
    tars = [str(path) for path in find_files(folder, f"*icons-{SIDE_PX}x{SIDE_PX}*") if ".tar" in path.name]
    return read_icons(tuple(tars), tuple(map(stamp_of, tars)))


@functools.cache
def read_icons(tars: tuple[str, ...], stamps: tuple[Stamp, ...]) -> dict[str, bytes]:
    """Return the icons by name.  The stamps are an argument so that changed files are read again."""
    icons: dict[str, bytes] = {}
    for path in tars:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() and member.size <= MAX_ICON_BYTES else None
                    if file is not None:
                        icons[member.name.removeprefix("./")] = file.read()
        except (tarfile.TarError, OSError, EOFError, zlib.error):
            continue  # the icons up to the cut stay; programs without one are left out
    return icons


def icon_file(folder: Path, name: str) -> bytes:
    """Return the file of an icon.  Raises ValueError if there is none of this name."""
    icons = _icons_below(folder)
    if name not in icons:
        raise ValueError(f"no icon {name!r}")
    return icons[name]
