"""Check the records of a model folder that somebody else made, before any library reads them.

A record is a JSON object without NaN.  What it says about pixels and texts stays within bounds: a deviation of 0 makes
every feature NaN, a resize to a million pixels or a normaliser that repeats text takes all memory.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from worldclip.contracts.layout import TRAINER
from worldclip.core.errors import MissingPackage, UserError, first_line, is_no_memory
from worldclip.core.regular_file import what_is
from worldclip.model.special_strings import normaliser_of
from worldclip.model.weights import MAX_LAYERS, read_json_config

# Names of the records that loaders read; a folder may hold other JSON, such as results.
RECORDS = ("*config.json", "*_cfg.json", "*.index.json", "special_tokens_map.json", "tokenizer.json", "vocab.json")
OBJECTS = ("vision_config", "text_config", "pretrained_cfg", "model_cfg", "preprocess_cfg", "vision_cfg", "text_cfg",
           "model_args", "weight_map")  # fmt: skip
MAX_FILES = 10_000  # files and folders; a model has some dozens, a pool or a home folder millions
PARSED_BELOW_BYTES = 2**22  # larger ones are vocabularies, which the tokenizer's library parses
MAX_RESIZE = 16  # times the crop
MAX_SIDE = 4096  # pixels per side of a model's input; published models read up to 1024
MAX_GROWTH = 18  # factor by which a normaliser may lengthen a text; NFKC makes 18 characters of U+FDFA
MAX_REPLACEMENT_BYTES = 256  # bytes for one character in a table of sentencepiece
FILTERS = range(6)  # Pillow's numbers of interpolations
DEFAULT_SIDE = 224  # default of transformers' processors
_SIDES = ("image_size", "img_size")
_LAYERS = ("num_hidden_layers", "layers")
_DEVIATIONS, _MEANS = ("image_std", "std"), ("image_mean", "mean")


def check_folder(folder: Path) -> None:
    """Raise UserError that names all records of a folder that cannot be used, or for a folder of MAX_FILES and more."""
    paths = list(itertools.islice(folder.rglob("*"), MAX_FILES))
    if len(paths) == MAX_FILES:
        raise UserError(
            f"{folder} is no model: it holds {MAX_FILES:,} files or more; give the model's folder, or train the run"
        )
    problems = [f"{path} {kind}" for path in sorted(paths) if (kind := what_is(path))]
    if problems:
        raise UserError(problems)
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]):
        if not any(fnmatch(path.name, name) for name in RECORDS) or path.parent.name == TRAINER:
            continue
        try:
            problems += [f"{path}: {problem}" for problem in _problems_of(path)]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def _problems_of(path: Path) -> Iterator[str]:
    if path.stat().st_size >= PARSED_BELOW_BYTES:
        with open(path, "rb") as file:
            if not file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                yield "not a JSON object; copy or download it again"
        return
    record = read_json_config(path)
    yield from _object_problems(record)
    if path.name != "tokenizer.json":
        yield from _number_problems(record)
    if path.name == "preprocessor_config.json":
        yield from _size_problems(record)


def _object_problems(record: Mapping[str, Any]) -> Iterator[str]:
    for key in OBJECTS:
        value = record.get(key)
        if value is not None and not isinstance(value, dict):
            yield f"{key} is {value!r:.80}; it must be an object"
        elif value is not None and key == "model_cfg":
            yield from _object_problems(value)


def _number_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield means and deviations that are no three numbers, a deviation of 0, and sizes that no model has."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _number_problems(value)
        elif key in (*_DEVIATIONS, *_MEANS) and value is not None:
            numbers = value if isinstance(value, list) else [value]
            if not all(map(_is_finite, numbers)) or len(numbers) not in (1, 3):
                yield f"{key} is {value!r:.80}; it must be three numbers, one per channel"
            elif key in _DEVIATIONS and not all(number > 0 for number in numbers):
                yield f"{key} is {value!r:.80}; pixels are divided by it, so each number must be above 0"
        elif key in _SIDES and value is not None:
            sides = value if isinstance(value, list) else [value]
            if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in sides):
                yield f"{key} is {value!r:.80}; it must be between 1 and {MAX_SIDE} pixels"
        elif key in _LAYERS and isinstance(value, int) and value > MAX_LAYERS:
            yield f"{key} is {value}; it must be at most {MAX_LAYERS}"


def _size_problems(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a resize far beyond the crop, which takes memory for pixels that are cut off again."""
    crop_sides = _sides(record.get("crop_size")) or [DEFAULT_SIDE]
    is_cropped = record.get("do_center_crop", True) and record.get("crop_size") is not None
    most = MAX_RESIZE * max(crop_sides) if is_cropped else MAX_SIDE
    for side in _sides(record.get("size")):
        if not (isinstance(side, int) and 1 <= side <= most):
            yield f"size is {record['size']!r:.80}; each side must be between 1 and {most} pixels"
            return
    for side in crop_sides:
        if not (isinstance(side, int) and 1 <= side <= MAX_SIDE):
            yield f"crop_size is {record['crop_size']!r:.80}; each side must be between 1 and {MAX_SIDE} pixels"
            return
    resample = record.get("resample", 0)
    if resample is not None and resample not in FILTERS:
        yield f"resample is {resample!r:.80}; it must be one of Pillow's filters, {FILTERS[0]} to {FILTERS[-1]}"
    factor = record.get("rescale_factor", 1)
    if not (_is_finite(factor) and factor > 0):
        yield f"rescale_factor is {factor!r:.80}; it must be a number above 0"


def _sides(value: Any) -> list[Any]:
    sides = value.values() if isinstance(value, dict) else [value]
    return [side for side in sides if side is not None]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextmanager
def library_faults(problem: str, remedy: str = "copy or download it whole") -> Iterator[None]:
    """Raise whatever a library makes of a model's records as UserError: `problem (the error); remedy`.

    Sizes and names of others make libraries raise nearly anything: ZeroDivisionError, AssertionError, errors of their
    own.  A list of them is never complete.  A lack of memory is no fault of the records.
    """
    try:
        yield
    except (UserError, MissingPackage):
        raise
    except Exception as error:
        if is_no_memory(error):
            raise
        raise UserError(f"{problem} ({str(error) or type(error).__name__}); {remedy}") from error


# --- tokenizers -------------------------------------------------------------------------------------------------------


@contextmanager
def tokenizer_faults(source: object) -> Iterator[None]:
    """Raise a panic of the tokenizers library as UserError: it is no Exception, and would end the thread it is in."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"{source}: the tokenizer's library gave up ({first_line(error):.200}); copy or download its files again"
        ) from error


def check_normaliser(hf: Any, source: object) -> None:
    """Raise UserError for a tokenizer of transformers whose normaliser makes a text many times longer."""
    normaliser = normaliser_of(hf)
    if normaliser is None:
        return
    growth = _growth(json.loads(normaliser.__getstate__()))
    if growth > MAX_GROWTH:
        raise UserError(
            f"{source}: the tokenizer's normaliser makes a text up to {growth:,.0f} times longer; at most {MAX_GROWTH}"
        )


def _growth(record: Any) -> float:
    """Return an upper bound of how many times longer a normaliser's text is, without the growth of NFKC."""
    if not isinstance(record, dict):
        return 1
    kind = record.get("type")
    if kind == "Sequence":
        return math.prod(_growth(part) for part in record.get("normalizers", ()))
    if kind == "Replace":
        pattern, content = record.get("pattern"), str(record.get("content", ""))
        plain = pattern.get("String") if isinstance(pattern, dict) else None
        # A regular expression may match one character, or between two.
        return max(1, len(content) / len(plain)) if plain else 1 + len(content)
    if kind == "Prepend":
        return max(1, len(str(record.get("prepend", ""))) / 4)
    if kind == "Precompiled":
        return 1 if _longest_replacement(record) <= MAX_REPLACEMENT_BYTES else math.inf
    return 1


def _longest_replacement(record: Mapping[str, Any]) -> int:
    """Return the bytes of the longest replacement in a table of sentencepiece: a trie with its size, then strings."""
    try:
        table = base64.b64decode(record.get("precompiled_charsmap") or "")
    except (binascii.Error, ValueError, TypeError):
        return 0  # the library refused it already
    start = 4 + int.from_bytes(table[:4], "little")
    return max(map(len, table[start:].split(b"\0")))
