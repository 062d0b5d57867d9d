"""GCompris' photographs for its word lists, with their words (Debian's package gcompris-qt-data).

`lang.rcc` is a resource file of Qt, whose layout is in Qt's rcc.cpp: a header of big-endian offsets, then nodes of 22
bytes, names in UTF-16 and data with their length in front.  In it are `words_sample/<word>.webp`, and a file per
locale, `content-de.json`: `{"apple.ogg": "ein Apfel", ...}`.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from pathlib import Path

from worldclip.core.errors import UserError
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.plugins.world.parts import Part, Picture, Text, find_files, plain_key

NAME = "gcompris"
FILE = "lang.rcc"
MAX_FILE_BYTES = 64 * 2**20  # limit of one unpacked file
MAX_TOTAL_BYTES = 8 * MAX_FILE_BYTES  # limit of all files; many nodes may share the same data
MAX_NODES = 100_000
_HEADER = struct.Struct(">4siiii")  # magic, version, offsets of nodes, data and names
_ZLIB = 1  # flag of a node
_FOLDER = 2


def read_gcompris(folder: Path) -> Part:
    """Return the photographs in `lang.rcc` below `folder` and their words.  Raises UserError if it cannot be read."""
    path = next(find_files(folder, FILE), None)
    if path is None:
        raise UserError(f"--gcompris is {str(folder)!r}: no {FILE} in it; docs/world.md says how to get it")
    part = Part(
        name=NAME,
        title="GCompris photographs",
        licence="GPL-3.0",
        notice="GCompris (https://gcompris.net), by many authors; GNU General Public License, version 3, and free "
        "licences of single pictures: see the copyright file of its package. Made smaller and put on white.",
    )
    try:
        files = read_resources(str(path), stamp_of(str(path)))
    except (ValueError, struct.error, RecursionError) as error:
        raise UserError(f"{path}: not a resource file of Qt ({error}); unpack the package again") from error
    words = {}
    for name in sorted(files):
        base = name.rpartition("/")[2]
        if "/words_sample/" in name and base.endswith(".webp"):
            word = base.removesuffix(".webp")
            words[word] = plain_key(NAME, word)
            part.pictures.append(Picture(key=words[word], subject=words[word], kind="photo", part=NAME, file=name))
    for name in sorted(files):
        base = name.rpartition("/")[2]
        if not base.startswith("content-") or not base.endswith(".json"):
            continue
        locale = base.removeprefix("content-").removesuffix(".json")
        try:
            labels = json.loads(files[name] or b"")
            pairs = [(words[key.removesuffix(".ogg")], text) for key, text in labels.items() if key[:-4] in words]
        except (ValueError, AttributeError, RecursionError) as error:
            part.leave_out(base, f"cannot be read: {error}")
            continue
        for subject, text in pairs:
            if isinstance(text, str) and text.strip():
                part.texts.append(Text(subject, locale, text.strip()))
            else:
                part.leave_out(f"{base}: {subject}", "no text")
    return part


@functools.cache
def read_resources(path: str, stamp: Stamp) -> dict[str, bytes | None]:
    """Return the files of a resource file of Qt by path; None for one that is not plain or packed with zlib.

    The stamp is an argument so that a changed file is read again.  Raises ValueError and struct.error for other files.
    """
    content = Path(path).read_bytes()
    magic, version, nodes, data, names = _HEADER.unpack_from(content)
    if magic != b"qres" or not 1 <= version <= 3:
        raise ValueError("no magic number, or a version that is not known")
    size = 14 if version == 1 else 22  # later versions have a modification time
    files: dict[str, bytes | None] = {}
    queue = [(0, "")]
    num_nodes = num_bytes = 0
    while queue:
        number, folder = queue.pop()
        num_nodes += 1
        if num_nodes > MAX_NODES or number < 0:
            raise ValueError("its folders form a loop")
        name_at, flags, first, second = struct.unpack_from(">iHii", content, nodes + number * size)
        name = folder
        if number:
            start = names + name_at  # of the length in UTF-16 units, a hash, the units
            (length,) = struct.unpack_from(">H", content, start)
            name += "/" + content[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
        if flags & _FOLDER:
            queue += [(second + child, name) for child in range(min(first, MAX_NODES))]
        else:
            file = _unpacked(content, data + second, flags)
            num_bytes += len(file or b"")
            if num_bytes > MAX_TOTAL_BYTES:
                raise ValueError(f"its files have more than {MAX_TOTAL_BYTES:,} bytes")
            files[name] = file
    return files


def _unpacked(content: bytes, offset: int, flags: int) -> bytes | None:
    """Return a file's data; None if they are not plain or packed with zlib, or do not unpack."""
    (length,) = struct.unpack_from(">I", content, offset)
    packed = content[offset + 4 : offset + 4 + length]
    if flags == 0:
        return packed
    if flags != _ZLIB:
        return None
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed[4:], MAX_FILE_BYTES)  # the first four bytes are the size
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def photograph(folder: Path, name: str) -> bytes:
    """Return the file of a photograph.  Raises ValueError if there is none of this name."""
    path = next(find_files(folder, FILE), None)
    content = read_resources(str(path), stamp_of(str(path))).get(name) if path else None
    if content is None:
        raise ValueError(f"no file {name!r}")
    return content
