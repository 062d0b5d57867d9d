"""The items that other packages may add, pool formats and commands (docs/plugins.md), and marks of items' names.

Names are read without importing any item.  Imports the standard library only, so that configs may use it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from typing import Any, NamedTuple

from worldclip.core.docstrings import module_docstrings
from worldclip.core.errors import UserError, first_line
from worldclip.core.suggest import suggest

OWN_PACKAGE = "worldclip"


class Requirement(NamedTuple):
    """Modules that an item needs, and the extra of worldclip that installs them; items have it as `requires`."""

    modules: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True)
class Registry:
    """The items of one kind: ours, and those that other packages register as entry points."""

    kind: str
    """The word for an item in messages, for example `pool format`."""
    group: str
    """Group of the entry points, for example `worldclip.pool_formats`."""
    items: Mapping[str, str]
    """Our items, name -> `module:object`."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all items: ours in their order, then those of other packages by name."""
        return tuple(self.points())

    def points(self) -> dict[str, EntryPoint]:
        """Return where each item is defined; those of other packages have a `dist`.

        Raises UserError for a name that two packages register.
        """
        points = {name: EntryPoint(name, place, self.group) for name, place in self.items.items()}
        for point in points_of_others(self.group):
            if point.name in points:
                packages = f"{_package(points[point.name])} and {_package(point)}"
                raise UserError(f"{self.group}: {point.name!r} is registered by {packages}; uninstall one of them")
            points[point.name] = point
        return points

    def load(self, name: str) -> Any:
        """Import an item.  Raises UserError for an unknown name, and where the module of another package fails."""
        points = self.points()
        check_name(self.kind, name, points)
        point = points[name]
        try:
            return point.load()
        except (Exception, SystemExit) as error:  # whatever the module of another package does at its import
            if point.dist is None:
                raise
            raise UserError(
                f"{self.kind} {name!r} of the package {point.dist.name} cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}); update or uninstall that package"
            ) from error

    def summary(self, name: str) -> str:
        """Return what an item is, in one line: the first of its docstring, read without importing its module."""
        point = self.points()[name]
        docstring = module_docstrings(point.module).get(point.attr, f"({point.module} has no docstring for it)")
        return docstring.partition("\n")[0].removesuffix(".")


@functools.cache
def points_of_others(group: str) -> list[EntryPoint]:
    """Return the entry points of other packages by name.  The metadata of worldclip 0.1 has our own items, too."""
    points = [point for point in metadata.entry_points(group=group) if _package(point) != OWN_PACKAGE]
    return sorted(points, key=lambda point: point.name)


def _package(point: EntryPoint) -> str:
    return OWN_PACKAGE if point.dist is None else point.dist.name


@dataclass(frozen=True)
class ItemOf:
    """Mark of a config field: its string, or each of its list, names an item of a kind."""

    kind: str
    names: tuple[str, ...]

    def violation(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        values = value if isinstance(value, tuple | list) else (value,)
        for name in values:
            problem = name_problem(self.kind, str(name), self.names)
            if problem:
                return f'"{name}": {problem}' if values is value else problem
        return None


def name_problem(kind: str, name: str, names: Collection[str]) -> str | None:
    """Return why there is no item of this name, with the nearest one that there is; None if there is one."""
    return None if name in names else f"unknown {kind}; {suggest(name, names)}"


def check_name(kind: str, name: str, names: Collection[str]) -> None:
    """Raise UserError for an unknown name, with the nearest known one."""
    problem = name_problem(kind, name, names)
    if problem:
        raise UserError(f"{name!r}: {problem}")
