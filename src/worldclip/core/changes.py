"""The differences between two records of a job, config or inputs, as a person reads them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldclip.core.artifacts import NOT_INSTALLED, digest

NUM_NAMED = 3  # changed inputs that a message names
MAX_SAID = 60  # characters of a changed value in a message
_DIGEST = re.compile(r"[0-9a-f]{32,}")
_FINGERPRINT_KEYS = frozenset({"path", "size", "sha256", "mtime_ns", "etag"})


@dataclass(frozen=True, slots=True)
class Change:
    """A key of a config, or an input, that is not what it was when a folder was finished."""

    name: str
    old: Any = None
    new: Any = None
    is_value: bool = True
    """Whether old and new say something to a person; digests and fingerprints do not."""

    def __str__(self) -> str:
        """Say the change in a few words: `balance.tail_fraction was 0.1, is 0.06`, `00000.tar (new)`."""
        if self.is_value:
            text = f"{self.name} was {_short(self.old)}, is {_short(self.new)}"
            if self.name == "pool.deny_keys" and not set(self.old or ()) <= set(self.new or ()):
                text += "; keys of the lists that this drops are allowed again"
            return text
        if self.old is None:
            return f"{self.name} (new)"
        if self.new is None:
            return f"{self.name} (gone)"
        return self.name


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SAID else f"{text[: MAX_SAID - 3]}..."


def name_changes(changes: Sequence[Change]) -> str:
    """Return the first changes, and the number of the others: `0.tar, 1.tar (new), 2.tar and 254 more`.

    Files of a folder are recorded by group, and all groups have the same name for them: `files of 257 groups`.
    """
    texts = []
    for text, number in Counter(map(str, changes)).items():
        texts.append(text if number == 1 else f"{text} of {number:,} groups")
    named = ", ".join(texts[:NUM_NAMED])
    return named if len(texts) <= NUM_NAMED else f"{named} and {len(texts) - NUM_NAMED:,} more"


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[Change]:
    """Return each difference of two JSON-able records, named `section.key`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changes = []
        for key in dict.fromkeys([*old, *new]):
            changes += changed_keys(old.get(key), new.get(key), f"{prefix}.{key}".removeprefix("."))
        return changes
    return [] if digest(old) == digest(new) else [Change(prefix, old, new)]


def changed_inputs(old: Any, new: Any, name: str = "") -> list[Change]:
    """Return each changed input by its name: a file's path, a stage, or a version with both values.

    A package that is not installed now counts as unchanged: what it made is finished.
    """
    if digest(old) == digest(new) or new == NOT_INSTALLED:
        return []
    old_parts = _parts(old, name)
    new_parts = _parts(new, name)
    if old_parts is None or new_parts is None:
        is_value = isinstance(old, str) and isinstance(new, str) and not _DIGEST.fullmatch(new)
        return [Change(name, old, new, is_value)]
    changes = []
    for key in dict.fromkeys([*old_parts, *new_parts]):
        changes += changed_inputs(old_parts.get(key), new_parts.get(key), key)
    return changes


def _parts(record: Any, name: str) -> dict[str, Any] | None:
    """Return the inputs in a record by their names; None for one input: a fingerprint, a digest, a version.

    A file of a list is named by its path, unless two have the same one: lists of entries in two folders.  Lists of
    keys have no names and are one input, their setting.
    """
    if record is None:
        return {}
    if isinstance(record, list) and any(isinstance(item, Mapping) and "setting" in item for item in record):
        by_setting: dict[str, list[str]] = {}
        for item in record:
            by_setting.setdefault(item["setting"], []).append(item["digest"])
        return {setting: digest(digests) for setting, digests in by_setting.items()}
    if isinstance(record, list) and not any(isinstance(item, list) for item in record):  # nested: groups of files
        inputs = {f"{name} {i}": item for i, item in enumerate(record)}
        if len(record) == 1:
            inputs = {name: record[0]}
    elif isinstance(record, Mapping) and _FINGERPRINT_KEYS.isdisjoint(record):
        return {str(key): value for key, value in record.items()}
    else:
        return None
    by_path = {}
    for key, value in inputs.items():
        path = value.get("path", key) if isinstance(value, Mapping) else key
        by_path[str(path)] = value
    return by_path if len(by_path) == len(inputs) else inputs
