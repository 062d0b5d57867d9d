"""Marks in `Annotated` that say more about a config field or a parameter of a command than its type does.

Metavar, Commas and Repeated: how the command line names and reads a value.  Folder and File: what a path is.  Bounds
limit the numbers of a field: `Annotated[int, AtLeast(1, "pairs per step")]`.  Decides names the outputs that a field
decides: `Decides()` none, `Decides("pool", "match")` those of two stages.  Place says that a field holds paths, ItemOf
(core/registry.py) that it names items of a registry.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Metavar:
    """The name of a flag's value in the help, such as FILE (default: the parameter's name, or that of its type)."""

    name: str


@dataclass(frozen=True)
class Folder:
    """Mark of a parameter: a local folder, never a URL; that of a flag is written, thus no file."""


@dataclass(frozen=True)
class File:
    """Mark of a parameter: a local file to write, neither a URL nor a folder."""


@dataclass(frozen=True)
class Commas:
    """A list of codes or names, which may be written with commas too; texts and paths may hold commas themselves."""


@dataclass(frozen=True)
class Repeated:
    """A list whose flag takes one value and may be given several times."""


class Decides:
    """Mark of a config field: the outputs that it decides.  Without it a field decides its own stage's.

    An output is a stage, such as "match", or a part of one, such as "match.texts", the matches of a shard.  A field
    that decides a stage decides all of its parts.  A field that decides only a part, such as "match.counts", makes the
    stage run again and leaves its other parts finished.  Parts: match.texts, match.counts, curate.list, curate.files.
    """

    def __init__(self, *outputs: str) -> None:
        self.outputs = outputs

    def covers(self, output: str) -> bool:
        """Return whether an output, a stage or a part of one, depends on the field."""
        return any(f"{name}.".startswith(f"{output}.") or f"{output}.".startswith(f"{name}.") for name in self.outputs)


@dataclass(frozen=True)
class Between:
    """Mark of a config field: the range of its numbers, those in its tables included.

    note: what is counted, why.  above, below: whether `low` or `high` itself is out of range.
    """

    low: float
    high: float
    note: str = ""
    above: bool = False
    below: bool = False

    def violation(self, value: Any) -> str | None:
        """Return what a value must be, or None where it is in range.  NaN and infinities never are."""
        if not isinstance(value, int | float):
            return None
        is_low_enough = value < self.high if self.below else value <= self.high
        is_high_enough = value > self.low if self.above else value >= self.low
        if is_low_enough and is_high_enough and value != math.inf:
            return None
        lower = "above" if self.above else "at least"
        upper = "below" if self.below else "at most"
        bounds = f"{lower} {self.low}"
        if self.high < math.inf:
            bounds += f" and {upper} {self.high}"
            if not self.above and not self.below:
                bounds = f"between {self.low} and {self.high}"
        elif value == math.inf:
            bounds += ", and finite"
        if self.note:
            bounds += f" ({self.note})"
        return f"must be {bounds}"


class AtLeast(Between):
    """Mark of a config field: its numbers are at least `low`."""

    def __init__(self, low: float, note: str = "") -> None:
        super().__init__(low, math.inf, note)


class Above(Between):
    """Mark of a config field: its numbers are above `low`."""

    def __init__(self, low: float, note: str = "") -> None:
        super().__init__(low, math.inf, note, above=True)


@dataclass(frozen=True)
class NotEmpty:
    """Mark of a config field: its list is not empty; note: what it may hold."""

    note: str

    def violation(self, value: Any) -> str | None:
        """Return what a value must be, or None where it is not empty."""
        return None if value else f"must not be empty ({self.note})"


@dataclass(frozen=True)
class Place:
    """Mark of a config field: its strings are paths, relative to the TOML file that holds them.

    prefix_until: a path begins after the first of this, as in `layout:path`.  or_name: it may be a name of another
    kind, such as a hub id; it is a path only if that exists.
    """

    prefix_until: str = ""
    or_name: bool = False

    def resolve(self, value: Any, folder: Path) -> Any:
        """Return a field's value with its relative paths made absolute; URLs and `~` stay."""
        if isinstance(value, dict):
            return {name: self.resolve(item, folder) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.resolve(item, folder) for item in value)
        if not isinstance(value, str):
            return value
        prefix = ""
        path = value
        if self.prefix_until:
            head, separator, path = value.partition(self.prefix_until)
            prefix = head + separator
        if not path or "://" in path or path.startswith("~"):
            return value
        absolute = os.path.normpath((folder / path).absolute())
        if self.or_name and not os.path.exists(absolute):
            return value
        return f"{prefix}{absolute}"
