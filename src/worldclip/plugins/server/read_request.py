"""Read the body of a request: texts and pictures, within limits.  All inputs that cannot be used are one error.

A text is a string, or {"text": ...}.  A picture is a data URL (data:image/png;base64,...), or {"image": ...} with one.
Addresses and paths are refused: the server reaches networks and files that its clients do not.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldclip.core.fields import convert
from worldclip.model.decode import BadImage, open_image
from worldclip.model.inference import text_problem
from worldclip.plugins.server.errors import ApiError, too_busy
from worldclip.pool.config import Where, problems_of_conditions

DATA = "data:"
VALUES_PER_INPUT = 8  # commas and brackets of a body, for each input that is allowed
SCAN_BYTES = 2**20  # scanned together
BUSY_RETRY_S = 2  # Retry-After while other requests fill the memory
REST_OF_ESCAPE = re.compile(rb"\\*[^\\]?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a request; more is refused with a message that names the limit."""

    body_bytes: int = 32 * 2**20
    """Bytes of one request's body."""
    bytes_in_flight: int = 256 * 2**20
    """Bytes of all requests under way; they bound the memory."""
    body_seconds: float = 60
    """Seconds in which a client sends its body."""
    pixels: int = 50_000_000
    """Pixels of one picture."""
    inputs: int = 2048
    """Texts and pictures of one request, and sentences of one classification."""
    pictures: int = 64
    """Pictures of one request."""
    text_chars: int = 20_000
    """Characters of one text; the model reads only its first tokens."""
    top: int = 1000
    """Results of one query."""
    hits: int = 10_000
    """Results of all queries of a request."""
    waiting: int = 4096
    """Texts and pictures that wait for the model."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of an image file whose header was read."""

    content: bytes
    num_pixels: int


class Budget:
    """The bytes that requests under way may hold together."""

    def __init__(self, num_bytes: int) -> None:
        self._free = num_bytes

    @contextlib.contextmanager
    def take(self, num_bytes: int) -> Iterator[None]:
        """Hold that many bytes.  Raises ApiError where others hold them."""
        with self.taking() as take:
            take(num_bytes)
            yield

    @contextlib.contextmanager
    def taking(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that takes so many bytes more, as `take` does, and hold them all until the block ends."""
        held = 0

        def take(num_bytes: int) -> None:
            nonlocal held
            if num_bytes > self._free:
                raise too_busy(BUSY_RETRY_S)
            self._free -= num_bytes
            held += num_bytes

        try:
            yield take
        finally:
            self._free += held


def read_json(content: bytes, limits: Limits) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises ValueError for what is not JSON, or holds more commas and brackets than the largest request has: millions
    of them take a hundred times their bytes as Python objects, and seconds.
    """
    most = limits.inputs * VALUES_PER_INPUT
    if len(content) > most and count_separators(content, most) > most:
        raise ValueError(f"it holds more than {most:,} values")
    try:
        text = content.decode()  # json.loads of bytes reads UTF-16 and UTF-32 too, in which nothing was counted
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start:,} is not UTF-8") from error
    return json.loads(text)


def count_separators(content: bytes, enough: int) -> int:
    """Return the number of commas and opening brackets outside strings; at least `enough` where there are more."""
    count = 0
    is_inside = False
    start = 0
    while start < len(content) and count <= enough:
        end = start + SCAN_BYTES
        match = REST_OF_ESCAPE.match(content, end) if content[end - 1 : end] == b"\\" else None
        if match:
            end = match.end()
        part = content[start:end].replace(b"\\\\", b"__").replace(b'\\"', b"__")
        codes = np.frombuffer(part, np.uint8)
        quotes = (codes == ord('"')).view(np.uint8)
        inside = np.bitwise_xor.accumulate(quotes) ^ np.uint8(is_inside)
        separators = (codes == ord(",")) | (codes == ord("[")) | (codes == ord("{"))
        count += int(np.count_nonzero(separators & (inside == 0)))
        is_inside = bool(inside[-1])
        start = end
    return count


def require_known(body: Any, params: Collection[str]) -> Mapping[str, Any]:
    """Return the body of a request.  Raises ApiError unless it is an object with no other keys than `params`."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    unknown = sorted(set(body) - set(params))
    if unknown:
        raise ApiError(400, f"unknown parameter {', '.join(unknown)}; known: {', '.join(params)}", param=unknown[0])
    return body


def read_selection(body: Mapping[str, Any]) -> tuple[Where, tuple[str, ...] | None, str]:
    """Return the parameters filter, keys and path_prefix of a search.  Raises ApiError that names all problems."""
    problems = []
    where: Where = ()
    try:
        where = convert(body.get("filter", []), Where)
        problems += [f"filter: {problem}" for problem in problems_of_conditions(where)]
    except TypeError:
        problems.append('filter: must be a list of ["column", comparison, value], as [["price", "<", 20]]')
    keys = body.get("keys", [])
    path_prefix = body.get("path_prefix", "")
    if not isinstance(keys, list) or any(map(text_problem, keys)):
        problems.append("keys: must be a list of texts in valid Unicode")
    if text_problem(path_prefix):
        problems.append("path_prefix: must be a text in valid Unicode, the begin of a path in the pool")
    if problems:
        raise ApiError(400, problems, param=problems[0].partition(":")[0])
    return where, tuple(keys) if "keys" in body else None, path_prefix


def read_inputs(value: Any, limits: Limits) -> list[str | Picture]:
    """Return the texts and pictures of `input`, one or a list.  Raises ApiError that names all problems."""
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        raise ApiError(400, "input is missing; give a text, a picture as a data URL, or a list of them", param="input")
    if len(values) > limits.inputs:
        raise ApiError(400, f"input holds {len(values):,} items; at most {limits.inputs:,} are allowed", param="input")
    if sum(map(_is_picture, values)) > limits.pictures:
        raise ApiError(400, f"input holds more than {limits.pictures} pictures; send several requests", param="input")
    items: list[str | Picture] = []
    problems = []
    for i, item in enumerate(values):
        try:
            items.append(_read_item(item, limits))
        except ValueError as error:
            name = "input" if value is item else f"input[{i}]"
            problems.append(f"{name}: {error}")
    if problems:
        raise ApiError(400, problems, param="input")
    return items


def _is_picture(item: Any) -> bool:
    if isinstance(item, dict):
        return "image" in item
    return isinstance(item, str) and item.startswith(DATA)


def _read_item(item: Any, limits: Limits) -> str | Picture:
    """Return one text or picture.  Raises ValueError that says what is wrong with it."""
    if isinstance(item, str):
        return _read_picture(item, limits) if _is_picture(item) else read_text(item, limits)
    if isinstance(item, dict) and len(item) == 1:
        kind, value = next(iter(item.items()))
        if kind == "text" and isinstance(value, str):
            return read_text(value, limits)
        if kind == "image" and isinstance(value, str):
            return _read_picture(value, limits)
    if isinstance(item, int | list):
        raise ValueError("token ids are not read; give the text")
    raise ValueError('must be a text, a data URL, {"text": ...} or {"image": ...}')


def read_text(text: str, limits: Limits) -> str:
    """Return a text.  Raises ValueError for one that is too long or not valid Unicode."""
    if len(text) > limits.text_chars:
        raise ValueError(f"is {len(text):,} characters long; at most {limits.text_chars:,} are allowed")
    problem = text_problem(text)
    if problem:
        raise ValueError(problem)
    return text


def _read_picture(url: str, limits: Limits) -> Picture:
    if not url.startswith(DATA):
        raise ValueError("addresses and paths of pictures are not read; send the picture as a data URL")
    head, comma, encoded = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("is not a data URL of a picture: data:image/png;base64,...")
    try:
        content = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"is not valid base64 ({error})") from error
    try:
        width, height = open_image(content).size
    except BadImage as error:
        raise ValueError(f"is not a picture that can be read ({error.detail})") from error
    if width * height > limits.pixels:
        raise ValueError(f"has {width} x {height} pixels; at most {limits.pixels:,} pixels are allowed")
    return Picture(content, width * height)
