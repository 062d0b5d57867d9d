"""Commands, items of a registry: a function whose parameters are the flags, and how its result is printed.

A command stands next to its work.  worldclip.cli reads its flags and prints its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from worldclip.core.errors import UserError
from worldclip.core.marks import File, Folder, Metavar, Repeated

Flags = Any  # the parsed flags: an object with an attribute per flag

OutFolder = Annotated[Path, Folder()]
OutFile = Annotated[Path | None, File()]
ShardsFlag = Annotated[str | None, Metavar("I/N")]
SetFlag = Annotated[Sequence[str], Metavar("KEY=VALUE"), Repeated()]


@dataclass(frozen=True, slots=True)
class Command:
    """A function on the command line."""

    function: Callable[..., Any]
    to_text: Callable[[Any, Flags], str] | None = None
    """(result, flags) -> what is printed without --json.  None: the function returns (result, text)."""
    positional: tuple[str, ...] = ()
    """Optional parameters that are positional arguments nonetheless."""
    remedy_of: Callable[[str], str] | None = None
    """Unknown flag, such as `--lr` -> what the user meant, "" where that is unknown."""
    has_own_workers: bool = False
    """Whether the function chooses the number of workers if neither --executor nor --workers is given."""


def read_slice(text: str) -> slice:
    """Return I/N (--shards) as every N-th element of a list, from the I-th on.  Raises UserError."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shards {text!r}: must be I/N, slice I of N with I between 1 and N, for example 3/16")
    return slice(int(index) - 1, None, int(number))
