"""Read the body of a request: texts and pictures, within limits.  All problems of a body are one error.

A text is a string, or {"text": ...}.  A picture is a data URL (data:image/png;base64,...), or {"image": ...} with a
data URL or, where the server was told so, an address.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from worldclip.model.decode import BadImage, open_image
from worldclip.plugins.server.errors import ApiError

DATA = "data:"
Fetch = Callable[[str, int], bytes]
"""(address, max_bytes) -> content; raises ValueError that says why it is not fetched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a server takes; more is refused with what is allowed."""

    body_bytes: int = 32 * 2**20
    """Of one request; pictures at addresses count too."""
    bytes_in_flight: int = 256 * 2**20
    """Of all requests under way: bounds the memory."""
    body_seconds: float = 60
    """In which a client sends its body."""
    pixels: int = 50_000_000
    """Of one picture."""
    inputs: int = 2048
    """Texts and pictures of one request, and sentences of one classification."""
    pictures: int = 64
    """Of one request."""
    text_chars: int = 20_000
    """Of one text; the model reads its first tokens alone."""
    top: int = 200
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


def require_known(body: Any, known: Collection[str]) -> Mapping[str, Any]:
    """Return the body of a request.  Raises ApiError unless it is an object with no other keys than `known`."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    if unknown := sorted(set(body) - set(known)):
        raise ApiError(400, f"unknown parameter {', '.join(unknown)}; known: {', '.join(known)}", param=unknown[0])
    return body


def read_inputs(value: Any, limits: Limits, fetch: Fetch | None, param: str = "input") -> list[str | Picture]:
    """Return the texts and pictures of a parameter, one or a list.  Raises ApiError that names all problems."""
    values = value if isinstance(value, list) else [value]
    if value is None or not values:
        raise ApiError(400, f"{param} is missing; give a text, a picture as a data URL, or a list of them", param=param)
    if len(values) > limits.inputs:
        raise ApiError(400, f"{param} holds {len(values):,} items; at most {limits.inputs:,} are allowed", param=param)
    if sum(map(_is_picture, values)) > limits.pictures:
        raise ApiError(400, f"{param} holds more than {limits.pictures} pictures; send several requests", param=param)
    items: list[str | Picture] = []
    problems = []
    room = limits.body_bytes
    for i, item in enumerate(values):
        try:
            read = _read_item(item, limits, fetch, room)
        except ValueError as error:
            name = param if value is item else f"{param}[{i}]"
            problems.append(f"{name}: {error}")
            continue
        items.append(read)
        room -= len(read.content) if isinstance(read, Picture) else 0
    if problems:
        raise ApiError(400, problems, param=param)
    return items


def _is_picture(item: Any) -> bool:
    return isinstance(item, dict) if not isinstance(item, str) else item.startswith(DATA)


def _read_item(item: Any, limits: Limits, fetch: Fetch | None, room: int) -> str | Picture:
    """Return one text or picture.  Raises ValueError that says what is wrong with it."""
    if isinstance(item, str):
        return _read_picture(item, limits, fetch, room) if item.startswith(DATA) else read_text(item, limits)
    if isinstance(item, dict) and len(item) == 1:
        kind, value = next(iter(item.items()))
        if kind == "text" and isinstance(value, str):
            return read_text(value, limits)
        if kind == "image" and isinstance(value, str):
            return _read_picture(value, limits, fetch, room)
    if isinstance(item, int | list):
        raise ValueError("token ids are not read; give the text")
    raise ValueError('must be a text, a data URL, {"text": ...} or {"image": ...}')


def read_text(text: str, limits: Limits) -> str:
    """Return a text.  Raises ValueError for one that is too long or not valid Unicode."""
    if len(text) > limits.text_chars:
        raise ValueError(f"is {len(text):,} characters long; at most {limits.text_chars:,} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode (a lone surrogate)") from error
    return text


def _read_picture(address: str, limits: Limits, fetch: Fetch | None, room: int) -> Picture:
    if address.startswith(DATA):
        content = _decode_data_url(address)
    elif fetch is None:
        raise ValueError("addresses are not fetched here (--allow-urls is off); send the picture as a data URL")
    else:
        content = fetch(address, room)
    try:
        width, height = open_image(content).size
    except BadImage as error:
        raise ValueError(f"is not a picture that can be read ({error.detail})") from error
    if width * height > limits.pixels:
        raise ValueError(f"has {width} x {height} pixels; at most {limits.pixels:,} pixels are allowed")
    return Picture(content, width * height)


def _decode_data_url(address: str) -> bytes:
    head, comma, content = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("is not a data URL of a picture: data:image/png;base64,...")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ValueError(f"is not valid base64 ({error})") from error
