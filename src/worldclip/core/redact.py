"""Keep credentials out of all that is written and said: recipes, manifests, exports, cards, logs, messages.

Keep the folders of a machine out of what is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
_SECRET_NAME = re.compile("key|token|secret|sig|auth|pass|jwt|bearer|credential", re.IGNORECASE)
# Plain characters of an address, or encoded any number of times
_COLON, _SLASH, _AT = "(?::|%(?:25)*3a)", "(?:/|%(?:25)*2f)", "(?:@|%(?:25)*40)"
_SEPARATOR = "(?:[?&;#]|%(?:25)*(?:3f|26|3b|23))"
_EQUALS = "(?:=|%(?:25)*3d)"
_START = f"{_COLON}{_SLASH}{{2}}"
_CHAR = r"[^\s?#\"'<>]"
_HOST_CHAR = f"(?!{_SLASH}){_CHAR}"
_USER_CHAR = f"(?!{_COLON}|{_AT}){_HOST_CHAR}"
# `Path` makes one slash of two; layout:/me@home is a local folder, abfs://container@account names no user
_ANY_START = f"{_COLON}{_SLASH}{{1,2}}"
_USER_START = f"(?<!abfs)(?<!abfss){_START}|(?:https?|s3|gs|s?ftp):/"
_USER = re.compile(
    f"({_ANY_START})(?:{_USER_CHAR})*{_COLON}(?:{_HOST_CHAR})*{_AT}"
    # A secret key of S3 holds slashes; host:8080/@me has a port
    rf"|({_ANY_START})(?:{_USER_CHAR})*{_COLON}(?!\d{{1,5}}{_SLASH})(?:(?!{_AT}|{_START}){_CHAR}){{1,200}}{_AT}"
    f"|({_USER_START})(?:{_HOST_CHAR})*{_AT}",
    re.IGNORECASE,
)
_PARAMETER = re.compile(rf"{_SEPARATOR}((?:(?!{_SEPARATOR}|{_EQUALS})[^\s\"'<>])+){_EQUALS}", re.IGNORECASE)
_VALUE = re.compile(r"[^&;#\s\"'<>]+")
# options of a storage in a record; `key` and `token` are ordinary words there
_SECRET_OPTION = re.compile(
    r"(?:\w+_)?(?:secret|secret_?(?:access_?)?key|password|passwd|credentials?|connection_string|"
    r"authorization|bearer|jwt|"
    r"(?:access|account|api|private|shared_access)_?key|(?:session|access|auth|hf|hub|sas|refresh|security)_?token)",
    re.IGNORECASE,
)
_LOCAL_PATH = re.compile(r"(?:file://)?([\w-]+:)?([/~].*)", re.DOTALL)  # form in recipes: absolute, or `layout:path`


def redact(text: str) -> str:
    """Return `text` with users, passwords and secret parameters of its addresses replaced."""
    if "%" not in text and ":/" not in text and "=" not in text:
        return text
    text = _USER.sub(rf"\1\2\3{HIDDEN}@", text)
    shown = []
    start = 0
    for parameter in _PARAMETER.finditer(text):
        name = unquote(re.sub("%(?:25)+", "%", parameter[1]))
        if parameter.start() < start or not _SECRET_NAME.search(name):  # before `start`: part of a hidden value
            continue
        value = _VALUE.match(text, parameter.end())
        if value:
            shown += [text[start : parameter.end()], HIDDEN]
            start = value.end()
    return "".join([*shown, text[start:]])


def redact_record(record: Any) -> Any:
    """Return a JSON-able record with `redact` on every text, and the values of secret storage options replaced."""
    if isinstance(record, str):
        return redact(record)
    if isinstance(record, Mapping):
        redacted = {}
        for name, value in record.items():
            is_secret = isinstance(name, str) and isinstance(value, str) and _SECRET_OPTION.fullmatch(name) is not None
            redacted[redact_record(name)] = HIDDEN if is_secret and value else redact_record(value)
        return redacted
    if isinstance(record, list):
        return list(map(redact_record, record))
    if isinstance(record, tuple):
        return tuple(map(redact_record, record))
    return record


def shorten_paths(record: Any) -> Any:
    """Return a JSON-able record with each text that is an absolute local path cut to its last part."""
    if isinstance(record, Mapping):
        return {name: shorten_paths(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return list(map(shorten_paths, record))
    if not isinstance(record, str):
        return record
    parts = record.split("::")  # `simplecache::/folder/file`
    for i, part in enumerate(parts):
        path = _LOCAL_PATH.fullmatch(part)
        if path is not None and not path[2].startswith("//"):  # two slashes begin the rest of a URL
            parts[i] = f"{path[1] or ''}{PurePosixPath(path[2]).name}"
    return "::".join(parts)
