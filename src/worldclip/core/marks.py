"""Marks in `Annotated` that say how the command line names and reads a parameter of a command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metavar:
    """The name of a flag's value in the help, such as FILE (default: the parameter's name, or that of its type)."""

    name: str


@dataclass(frozen=True)
class Commas:
    """A list of codes or names, which may be written with commas too; texts and paths may hold commas themselves."""


@dataclass(frozen=True)
class Repeated:
    """A list whose flag takes one value and may be given several times."""
