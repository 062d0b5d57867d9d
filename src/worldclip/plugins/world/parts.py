"""The output of each part of the world pool: pictures, texts about their subjects, and what could not be read.

A *subject* is what a picture shows: the code points of an emoji without variation selectors (`1F44B-1F3FB`), or a name
within a part.  Two drawings of an emoji have one subject and thus the same texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from worldclip.plugins.drawings import PRESENTATION, tones_of

Kind = Literal["emoji", "flag", "toned", "stamp", "icon", "photo"]
UNTRAINED: tuple[Kind, ...] = ("stamp", "photo")
"""Kinds of another domain: held out as a whole unless the user trains on them."""
SUBDIVISION = "1F3F4-E00"  # a black flag and tag characters: the flags of England, Scotland, Wales
REGIONAL_A = 0x1F1E6  # REGIONAL INDICATOR SYMBOL LETTER A; Z is 0x1F1FF
_FLAG = re.compile(r"1F1(E[6-9A-F]|F[0-9A-F])-1F1(E[6-9A-F]|F[0-9A-F])")
MAX_NAME_CHARS = 60  # characters of a name in a key: names of members of a tar are short


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture and where it is."""

    key: str
    """Name of its files in the tars: letters, digits, `-`."""
    subject: str
    kind: Kind
    part: str
    file: str
    """Where the part finds the drawing: a path below its folder, or a name in a file of drawings."""


class Text(NamedTuple):
    """The texts of a subject in a locale."""

    subject: str
    locale: str
    """As the source writes it: `de_CH`, `zh-Hant`, `ca@valencia`."""
    name: str
    """Empty where the source has only keywords."""
    keywords: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Part:
    """The content of one source."""

    name: str
    title: str
    licence: str
    """Short name of the pictures' licence, or the texts' where there are no pictures."""
    notice: str
    """Authors, licences and address, for the README."""
    version: str = ""
    pictures: list[Picture] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> what was left out."""

    def leave_out(self, what: str, reason: str) -> None:
        """Record something that is left out."""
        self.problems.setdefault(reason, []).append(what)


def kind_of(subject: str) -> Kind:
    """Return the kind of an emoji: a flag of a territory, a toned one, or another."""
    if territory_of(subject) or subject.startswith(SUBDIVISION):
        return "flag"
    return "toned" if tones_of(char_of(subject)) else "emoji"


def char_of(subject: str) -> str:
    return "".join(chr(int(code, 16)) for code in subject.split("-"))


def subject_of(char: str) -> str:
    """Return the subject of an emoji: its code points without variation selectors."""
    return "-".join(f"{ord(part):04X}" for part in char).replace(PRESENTATION, "")


def territory_of(subject: str) -> str:
    """Return the code of the territory of a flag (`FR`), "" if the subject is no such flag."""
    if not _FLAG.fullmatch(subject):
        return ""
    return "".join(chr(ord("A") + int(code, 16) - REGIONAL_A) for code in subject.split("-"))


def flag_of(territory: str) -> str:
    """Return the subject of the flag of a territory's code, such as `FR`."""
    return "-".join(f"{REGIONAL_A + ord(letter) - ord('A'):04X}" for letter in territory)


def plain_key(part: str, name: str) -> str:
    """Return the key of a picture with a name of others: letters, digits and `-`, short and its own."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:MAX_NAME_CHARS]
    return f"{part}-{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:6]}"


def find_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files below `folder` that match a pattern, in sorted order."""
    yield from sorted(filter(Path.is_file, folder.rglob(pattern)))
