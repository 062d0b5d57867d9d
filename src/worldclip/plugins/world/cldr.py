"""Names and keywords of the emoji: CLDR's annotations, as XML (its own archive, Debian's unicode-cldr-core) or as JSON
(the npm packages cldr-annotations-full and cldr-annotations-derived-full).

    <folder>/.../annotations/de.xml, .../annotationsDerived/de.xml
    <folder>/.../annotations/de/annotations.json, .../annotationsDerived/de/annotations.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from worldclip.core.errors import UserError
from worldclip.plugins.world.locales import ROOTS, is_main, parent_of
from worldclip.plugins.world.parts import Part, Text, find_files, subject_of

NAME = "cldr"
INHERITED = "↑↑↑"  # stands for the parent's value
_DTD_VERSION = re.compile(r'cldrVersion CDATA #FIXED "([\d.]+)"')


class Annotation(NamedTuple):
    """One locale's annotations of one emoji; empty where it has none."""

    name: str = ""
    keywords: tuple[str, ...] = ()


Annotations = dict[str, Annotation]
"""The annotations of one locale, by subject."""


def read_cldr(folder: Path, subjects: Collection[str]) -> Part:
    """Return the names and keywords of `subjects` in every locale below `folder`.  Raises UserError if it has none.

    A language's locale inherits what it lacks from its parent (Nynorsk from Norwegian); a regional locale adds only
    what it says in its own way.  A file that cannot be read is left out as a whole, with its reason.
    """
    part = Part(
        name=NAME,
        title="Names and keywords of emoji",
        licence="Unicode-3.0",
        notice="Unicode Common Locale Data Repository, annotations; Unicode License v3 "
        "(https://www.unicode.org/license.txt), copyright Unicode, Inc.",
        version=read_version(folder),
    )
    locales: dict[Path, str] = {}
    for path in find_files(folder, "annotations.json"):
        locales[path] = path.parent.name.replace("-", "_")
    for path in find_files(folder, "*.xml"):
        if path.parent.name in ("annotations", "annotationsDerived"):
            locales[path] = path.stem
    if not locales:
        raise UserError(
            f"--cldr is {str(folder)!r}: no annotations/*.xml or annotations/*/annotations.json in it; "
            "docs/world.md says how to get them"
        )
    by_locale: dict[str, Annotations] = {}
    for path, locale in locales.items():
        if locale in ROOTS:
            continue
        try:
            annotations = _read_json(path) if path.suffix == ".json" else _read_xml(path)
        except (ValueError, RecursionError, expat.ExpatError) as error:
            part.leave_out(path.relative_to(folder).as_posix(), f"cannot be read: {error}")
            continue
        by_locale[locale] = annotations | by_locale.get(locale, {})
    for locale in sorted(by_locale):
        resolved = dict(by_locale[locale])
        parent = parent_of(locale) if is_main(locale) else ""
        while parent:
            for subject, inherited in by_locale.get(parent, {}).items():
                own = resolved.get(subject, Annotation())
                resolved[subject] = Annotation(own.name or inherited.name, own.keywords or inherited.keywords)
            parent = parent_of(parent)
        for subject, annotation in resolved.items():
            if subject in subjects and (annotation.name or annotation.keywords):
                part.texts.append(Text(subject, locale, annotation.name, annotation.keywords))
    return part


def _read_json(path: Path) -> Annotations:
    """Read one locale of the npm packages.  Raises ValueError for anything else."""
    record = json.loads(path.read_bytes())
    try:
        top = record["annotations"] if "annotations" in record else record["annotationsDerived"]
        annotations = {}
        for char, values in top.get("annotations", {}).items():  # a locale that says nothing has none
            names = values.get("tts", [])
            annotations[subject_of(char)] = _annotation(next(iter(names), ""), values.get("default", []))
        return annotations
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not CLDR's annotations") from error


def _read_xml(path: Path) -> Annotations:
    """Read one locale of CLDR's XML.  Raises ValueError for entities and the old format, ExpatError for a cut file."""
    parser = expat.ParserCreate()
    values: dict[tuple[str, bool], str] = {}
    open_element: list[tuple[str, bool]] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag == "annotation" and "tts" in attributes:
            raise ValueError("is of CLDR 29 or older, whose names are attributes; take 30 or later")
        if tag == "annotation" and "cp" in attributes:
            open_element.append((attributes["cp"], attributes.get("type") == "tts"))
            values[open_element[-1]] = ""

    def end(tag: str) -> None:
        if tag == "annotation" and open_element:
            open_element.pop()

    def add(text: str) -> None:
        if open_element:
            values[open_element[-1]] += text

    def refuse(*_: object) -> None:
        raise ValueError("declares entities, which CLDR's files do not")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = add
    parser.EntityDeclHandler = refuse
    with open(path, "rb") as file:
        parser.ParseFile(file)
    annotations = {}
    for char in dict.fromkeys(char for char, _ in values):
        keywords = values.get((char, False), "").split("|")
        annotations[subject_of(char)] = _annotation(values.get((char, True), ""), keywords)
    return annotations


def _annotation(name: str, keywords: list[str]) -> Annotation:
    """Clean a name and keywords; inherited and empty ones are left out."""
    words = []
    for text in (name, *keywords):
        word = text.strip()
        words.append("" if word == INHERITED else word)
    return Annotation(words[0], tuple(filter(None, words[1:])))


def read_version(folder: Path) -> str:
    """Return the version of CLDR: of the npm packages, or of the document type definition next to the XML."""
    versions = set()
    for path in find_files(folder, "package.json"):
        try:
            versions.add(str(json.loads(path.read_bytes())["version"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    for path in find_files(folder, "ldml.dtd"):
        match = _DTD_VERSION.search(path.read_text(encoding="utf-8", errors="replace"))
        if match:
            versions.add(match[1])
    return ", ".join(sorted(versions)) or "unknown"
