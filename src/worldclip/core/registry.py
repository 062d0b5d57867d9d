"""Registries: the named items of the recipe, such as pool formats and commands.

An item is one module, or one object of a module, that says everything about itself.  One line of
src/worldclip/entry_points.txt registers it, under the group of its registry and in the syntax of entry points,
`name = module:object`.  Other packages may register pool formats and commands (docs/plugins.md).

Names are read without importing any item.  Imports the standard library only, so that configs may use it.
"""

from __future__ import annotations

import configparser
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.docstrings import module_docstrings
from worldclip.core.errors import UserError, first_line
from worldclip.core.suggest import suggest

OWN_PACKAGE = "worldclip"
_OWN_ITEMS = Path(__file__).parents[1] / "entry_points.txt"


class Requirement(NamedTuple):
    """Modules that an item needs, and the extra of worldclip that installs them; items have it as `requires`."""

    modules: tuple[str, ...] = ()
    extra: str = ""


@dataclass(frozen=True)
class Registry:
    """The items of one kind."""

    kind: str
    """The word for an item in messages, for example `pool format`."""
    group: str
    """Group of the entry points, for example `worldclip.pool_formats`."""
    is_open: bool = False
    """Whether other packages may register items."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all items: ours in the order of the file, then those of other packages by name."""
        return tuple(self.points())

    def in_order(self, names: Collection[str]) -> list[str]:
        """Return `names` in the order of `names()`; last those that are not registered now, sorted."""
        registered = self.names()
        return [*(name for name in registered if name in names), *sorted(set(names) - set(registered))]

    def points(self) -> Mapping[str, EntryPoint]:
        """Return where each item is defined; those of other packages have a `dist`."""
        return _points(self.group, self.is_open)

    def load(self, name: str) -> Any:
        """Import an item.  Raises UserError for an unknown name, and where the module of another package fails."""
        problem = self.problem(name)
        if problem:
            raise UserError(f"{name!r}: {problem}")
        point = self.points()[name]
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

    def problem(self, name: str) -> str | None:
        """Return why a name cannot be used, with the nearest known one; None for an item."""
        return None if name in self.names() else f"unknown {self.kind}; {suggest(name, self.names())}"


@dataclass(frozen=True)
class ItemOf:
    """Mark of a config field: its string, or each of its list, names an item of a registry."""

    registry: Registry

    def violation(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        values = value if isinstance(value, tuple | list) else (value,)
        for name in values:
            problem = self.registry.problem(str(name))
            if problem:
                return f'"{name}": {problem}' if values is value else problem
        return None


@functools.cache
def _points(group: str, is_open: bool) -> dict[str, EntryPoint]:
    """Return the entry points of a group's items: ours, in the order of the file, those of `[group]` and `[group.X]`.

    Raises UserError for a name that two packages register.
    """
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(_OWN_ITEMS.read_text(encoding="utf-8"))
    points: dict[str, EntryPoint] = {}
    for heading in parser.sections():
        if f"{heading}.".startswith(f"{group}."):
            points |= {name: EntryPoint(name, value, heading) for name, value in parser.items(heading)}
    installed = metadata.entry_points(group=group) if is_open else ()
    for point in sorted(installed, key=lambda point: point.name):
        assert point.dist is not None  # each has one that `entry_points` returns
        package = point.dist.name
        if package == OWN_PACKAGE:  # an installation's copy of our file may be older than the file
            continue
        if point.name in points:
            first = points[point.name].dist
            packages = [OWN_PACKAGE if first is None else first.name, package]
            raise UserError(f"{group}: {point.name!r} is registered by {' and '.join(packages)}; uninstall one of them")
        points[point.name] = point
    return points
