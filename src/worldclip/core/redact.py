"""Keep credentials out of all that is written and said: recipes, manifests, exports, cards, logs, messages.

Keep the folders of a machine out of what is published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

HIDDEN = "***"
_NAME = "token|key|secret|sig|password|passwd|credential"
# user:password@ of an address; `Path` makes one slash of two
_USER = re.compile(r"(:/{1,2})[^\s/?#\"'<>@:]{0,200}:[^\s/?#\"'<>@]{1,4000}@")
_PARAMETER = re.compile(rf"([?&;#](?:amp;)?[\w%.-]{{0,40}}(?:{_NAME})[\w%.-]{{0,40}}=)[^&;#\s\"'<>]+", re.IGNORECASE)
# options of a storage in a record; `key` and `token` are ordinary words there
_SECRET_OPTION = re.compile(
    r"(?:\w+_)?(?:secret|secret_?(?:access_?)?key|password|passwd|credentials?|connection_string|"
    r"(?:access|account|api|private|shared_access)_?key|(?:session|access|auth|hf|hub|sas|refresh|security)_?token)",
    re.IGNORECASE,
)
_LOCAL_PATH = re.compile(r"(?:file://)?([\w-]+:)?([/~].*)", re.DOTALL)  # form in recipes: absolute, or `layout:path`


def redact(text: str) -> str:
    """Return `text` with users, passwords and secret parameters of its addresses replaced."""
    text = _USER.sub(rf"\1{HIDDEN}@", text) if ":/" in text else text
    return _PARAMETER.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def redact_record(record: Any) -> Any:
    """Return a JSON-able record with `redact` on every text, and the values of secret storage options replaced."""
    if isinstance(record, str):
        return redact(record)
    if isinstance(record, Mapping):
        return {
            (redact(name) if isinstance(name, str) else name): HIDDEN
            if _is_secret_option(name, value)
            else redact_record(value)
            for name, value in record.items()
        }
    if isinstance(record, list | tuple):
        return [redact_record(value) for value in record]
    return record


def _is_secret_option(name: Any, value: Any) -> bool:
    """Return whether an item of a record is an option of a storage whose value is a credential."""
    is_text = isinstance(name, str) and isinstance(value, str) and value != ""
    return is_text and _SECRET_OPTION.fullmatch(name) is not None


def has_credential(value: Any) -> bool:
    """Return whether `redact_record` would change a value of a config."""
    if isinstance(value, str):
        return redact(value) != value
    if isinstance(value, Mapping):
        is_named_so = any(_is_secret_option(name, item) for name, item in value.items())
        return is_named_so or any(has_credential(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple) and any(map(has_credential, value))


def shorten_paths(record: Any) -> Any:
    """Return a JSON-able record with each text that is an absolute local path cut to its last part."""
    if isinstance(record, Mapping):
        return {name: shorten_paths(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [shorten_paths(value) for value in record]
    if not isinstance(record, str):
        return record
    return "::".join(map(_shorten_path, record.split("::")))  # `simplecache::/folder/file`


def _shorten_path(text: str) -> str:
    path = _LOCAL_PATH.fullmatch(text)
    if path is None or path[2].startswith("//"):  # the rest of a URL
        return text
    return f"{path[1] or ''}{PurePosixPath(path[2]).name}"
