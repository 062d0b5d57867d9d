"""Tux Paint's stamps, many of them photographs, with captions (Debian's package tuxpaint-stamps-default).

<folder>/.../animals/birds/owl.png (or .svg), owl.txt: a caption in English, then `de.utf8=Eine Eule.` per locale
"""

from __future__ import annotations

import re
from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.plugins.world.parts import Part, Picture, Text, find_files, plain_key

NAME = "stamps"
_LINE = re.compile(r"([A-Za-z_@]+)\.utf8=(.*)")
MIRRORED = "_mirror"  # ends the name of a second drawing for mirrored stamps, which has no caption of its own


def read_stamps(folder: Path) -> Part:
    """Return the stamps below `folder` and their captions.  Raises UserError if there are none."""
    part = Part(
        name=NAME,
        title="Tux Paint stamps",
        licence="GPL-2.0",
        notice="Tux Paint stamps (https://tuxpaint.org), by many authors; GNU General Public License, version 2, and "
        "public domain: see docs/COPYING of its package. Made smaller and put on white.",
    )
    root = next(filter(Path.is_dir, sorted(folder.rglob("stamps"))), folder)
    drawings = {path.with_suffix(""): path for path in find_files(root, "*.svg")}
    drawings |= {path.with_suffix(""): path for path in find_files(root, "*.png")}
    if not drawings:
        raise UserError(f"--stamps is {str(folder)!r}: no .png in it; docs/world.md says how to get the stamps")
    captions = {path.with_suffix(""): path for path in find_files(root, "*.txt")}
    for stem, path in drawings.items():  # the .png where there are both
        file = path.relative_to(folder).as_posix()
        if stem not in captions:
            if not stem.name.endswith(MIRRORED):
                part.leave_out(file, "no caption")
            continue
        key = plain_key(NAME, stem.relative_to(root).as_posix())
        part.pictures.append(Picture(key=key, subject=key, kind="stamp", part=NAME, file=file))
        for number, content in enumerate(captions[stem].read_bytes().split(b"\n")):
            place = f"{captions[stem].name}, line {number + 1}"
            try:
                line = content.decode("utf-8").strip()
            except UnicodeDecodeError:
                part.leave_out(place, "not UTF-8")
                continue
            match = _LINE.fullmatch(line)
            if match and match[2].strip():
                part.texts.append(Text(key, match[1], match[2].strip()))
            elif number == 0 and line:
                part.texts.append(Text(key, "en", line))
            elif line and not match:
                part.leave_out(place, "no locale")
    for stem in sorted(set(captions) - set(drawings)):
        part.leave_out(captions[stem].relative_to(folder).as_posix(), "no picture")
    return part
