"""Registries: the named items of the recipe, such as pool formats and commands.

An item is one module, or one object of a module, that says everything about itself.  One line of
src/worldclip/entry_points.txt registers it, under the group of its registry and in the syntax of entry points,
`name = module:object`.  Other packages may register pool formats and commands (docs/plugins.md).

Names are read without importing any item.  Imports the standard library only, so that configs may use it.
"""

from __future__ import annotations

import configparser
import functools
import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.docstrings import module_docstrings
from worldclip.core.errors import UserError, first_line
from worldclip.core.suggest import suggest

OWN_PACKAGE = "worldclip"
_OWN_ITEMS = Path(__file__).parents[1] / "entry_points.txt"


class Origin(NamedTuple):
    """The definition of an item."""

    package: str
    """The distribution that registers it, for messages."""
    module: str
    attribute: str
    """Name in the module; empty if the module itself is the item."""
    section: str = ""
    """Title under which lists show our own item: of `[GROUP.entry_lists]` in our file, `Entry lists`."""


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
        return tuple(self.origins())

    def in_order(self, names: Collection[str]) -> list[str]:
        """Return `names` in the order of `names()`; last those that are not registered now, sorted."""
        registered = self.names()
        return [*(name for name in registered if name in names), *sorted(set(names) - set(registered))]

    def origins(self) -> Mapping[str, Origin]:
        """Return where each item is defined."""
        return _origins(self.group, self.is_open)

    def load(self, name: str) -> Any:
        """Import an item.  Raises UserError for an unknown name, and where the module of another package fails."""
        if problem := self.problem(name):
            raise UserError(f"{name!r}: {problem}")
        origin = self.origins()[name]
        try:
            module = importlib.import_module(origin.module)
            return getattr(module, origin.attribute) if origin.attribute else module
        except (Exception, SystemExit) as error:  # whatever the module of another package does at its import
            if origin.package == OWN_PACKAGE:
                raise
            raise UserError(
                f"{self.kind} {name!r} of the package {origin.package} cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}); update or uninstall that package"
            ) from error

    def summary(self, name: str) -> str:
        """Return what an item is, in one line: the first of its docstring, read without importing its module."""
        origin = self.origins()[name]
        docstring = module_docstrings(origin.module).get(origin.attribute, f"({origin.module} has no docstring for it)")
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
            if problem := self.registry.problem(str(name)):
                return f'"{name}": {problem}' if values is value else problem
        return None


@functools.cache
def _origins(group: str, is_open: bool) -> dict[str, Origin]:
    """Return the origins of a group's items.  Raises UserError for a name that two packages register."""
    origins = dict(_own(group))
    points = metadata.entry_points(group=group) if is_open else ()
    for point in sorted(points, key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else point.module.partition(".")[0]
        if package == OWN_PACKAGE:  # an installation's copy of our file may be older than the file
            continue
        if point.name in origins:
            packages = f"{origins[point.name].package} and {package}"
            raise UserError(f"{group}: {point.name!r} is registered by {packages}; uninstall one of them")
        origins[point.name] = _origin(package, point.value)
    return origins


def _own(group: str) -> list[tuple[str, Origin]]:
    """Return (name, origin) of our own items, in the order of the file: those of `[group]` and of `[group.SECTION]`."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    parser.read_string(_OWN_ITEMS.read_text(encoding="utf-8"))
    items = []
    for heading in parser.sections():
        if f"{heading}.".startswith(f"{group}."):
            section = heading.removeprefix(group).strip(".").replace("_", " ").capitalize()
            items += [(name, _origin(OWN_PACKAGE, value, section)) for name, value in parser.items(heading)]
    return items


def _origin(package: str, value: str, section: str = "") -> Origin:
    module, _, attribute = value.partition(":")
    return Origin(package, module.strip(), attribute.strip(), section)
