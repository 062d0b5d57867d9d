"""Lists: numbers, plain files, and words of the package wordfreq (about 40 languages).

A plain list has one entry per line with an optional score after a tab, or is a JSON array of strings, as the
reference's metadata.json.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worldclip.core import unpack
from worldclip.core.errors import BadShard, require
from worldclip.language import characters
from worldclip.language.table import INSTALLED, Languages
from worldclip.metadata.counting import Candidates
from worldclip.metadata.entry_list import EntryList
from worldclip.metadata.source import Inputs, Source

NUM_NUMBERS = 100
_PART = re.compile(r"[^\s\-]+")
_DOTTED_I = frozenset({"tr", "az", "crh", "gag"})  # languages where i and ı are two letters; their capitals are İ and I


def read_list(path: Path) -> Iterator[tuple[str, float | None]]:
    """Yield (entry, score or None) of a plain list, or of a JSON array (.json); either may be gzipped (.gz).

    Raises BadShard with the line for invalid UTF-8 and invalid scores, and for JSON that is not an array of strings.
    """
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _read_json(path)
        return
    for number, line in enumerate(iter_lines(path), 1):
        entry, separator, text = line.partition("\t")
        if not entry.strip():
            continue
        try:
            score = float(text) if separator else None
        except ValueError:
            score = math.nan
        if score is not None and math.isnan(score):
            raise BadShard(f"{path}, line {number}: score {text!r} after the tab is not a number")
        yield entry, score


def _read_json(path: Path) -> Iterator[tuple[str, None]]:
    try:
        entries = json.loads("\n".join(iter_lines(path)))
    except (ValueError, RecursionError) as error:
        raise BadShard(f"{path}: invalid JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise BadShard(f"{path}: not a JSON array of strings")
    yield from ((entry, None) for entry in entries)


def iter_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or .gz, without line ends and without a byte order mark."""
    number = 0
    try:
        for number, line in enumerate(unpack.iter_lines(path), 1):
            text = line.decode("utf-8").rstrip("\r\n")
            yield text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        raise BadShard(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
    except (OSError, BadShard) as error:
        raise BadShard(f"{path}: cannot be read after line {number} ({error})") from error


def read_frequent_words(lang: str, top: int, languages: Languages = INSTALLED) -> Iterator[tuple[str, float]]:
    """Yield the `top` most frequent words with their share of all words, each as it is, then in title case.

    wordfreq lower-cases all words, so only the title case brings names back.  Words with two digits or more are
    skipped.  Raises KeyError for a language that wordfreq does not have.
    """
    wordfreq_lang = languages.get(lang).wordfreq
    if wordfreq_lang is None:
        raise KeyError(lang)
    frequencies = require("wordfreq", extra="metadata").get_frequency_dict(wordfreq_lang, "best")
    for word, frequency in list(frequencies.items())[:top]:
        if _merged_number().search(word):
            continue
        yield word, frequency
        yield title_case(word, lang), frequency


@functools.cache
def _merged_number() -> re.Pattern[str]:
    """Return the pattern of a word that stands for all numbers with the same number of digits: 0000 for 1984.

    Such a word occurs in no text.  Source: smash_numbers in wordfreq/numbers.py.
    """
    digit = f"[{characters.digit_class()}]"
    return re.compile(f"{digit}.*{digit}")


def title_case(word: str, lang: str) -> str:
    """Return the word with each part between whitespace or hyphens capitalized: It's, Jean-Paul, İstanbul."""

    def capitalize(match: re.Match[str]) -> str:
        part = match.group()
        if lang in _DOTTED_I and part[0] == "i":
            return "İ" + part[1:]
        if lang == "nl" and part.startswith("ij"):  # one letter in Dutch: IJsland
            return "IJ" + part[2:]
        return characters.title(part[0]) + part[1:]

    return _PART.sub(capitalize, word)


class Numbers(Source):
    """Numbers are entries and no words: a language of which there is nothing else has no list."""

    name = "number"
    meaning = "every language has the numbers 0 to 99"

    def read(self, inputs: Inputs) -> Candidates:
        for number in range(NUM_NUMBERS):
            yield str(number), None

    def add_to(self, entries: EntryList, inputs: Inputs) -> None:
        entries.add(self.name, self.read(inputs), inputs.config.max_chars)


class PlainLists(Source):
    """The lists that the recipe names."""

    name = "list"
    meaning = "in the list that the recipe names"
    score = "score in the list"

    def files(self, inputs: Inputs) -> Sequence[Path]:
        lists = inputs.config.lists
        return (Path(lists[inputs.lang]),) if inputs.lang in lists else ()

    def read(self, inputs: Inputs) -> Candidates:
        for path in self.files(inputs):
            yield from read_list(path)

    def fingerprint(self, inputs: Inputs) -> Any:
        licences = inputs.config.licences
        licence = {"licence": licences[inputs.lang]} if inputs.lang in licences else {}
        return [{**record, **licence} for record in super().fingerprint(inputs)]


NUMBER = Numbers()
LIST = PlainLists()
