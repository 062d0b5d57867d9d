"""Registries: the named items that plug into the recipe, such as pool formats and commands.

An item is one module, or one object of a module, that says everything about itself.  One line registers it, under the
group of its registry and in the syntax of entry points, `name = module:object`:

    worldclip's own items     src/worldclip/entry_points.txt, read as a file: needs no installation
    items of other packages   [project.entry-points."worldclip.pool_formats"] in their pyproject.toml

Names are read without importing any item.  Imports the standard library only, so that configs may use it.  An item of
another package that cannot be imported stops only what names it.
"""

from __future__ import annotations

import configparser
import functools
import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.console import say
from worldclip.core.docstrings import module_docstrings
from worldclip.core.errors import UserError, first_line
from worldclip.core.toml_files import suggest

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
    """Empty for an item of another package, whose own dependencies install them."""


class BrokenItem(UserError):
    """An item of another package whose module cannot be imported or lacks the item."""


@dataclass(frozen=True)
class Registry:
    """The items of one kind."""

    kind: str
    """The word for an item in messages, for example `pool format`."""
    group: str
    """Group of the entry points, for example `worldclip.pool_formats`."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all items: ours in the order of the file, then those of other packages by name."""
        return tuple(_origins(self.group))

    def in_order(self, names: Collection[str]) -> list[str]:
        """Return `names` in the order of `names()`; last those that are not registered now, sorted."""
        registered = self.names()
        return [*(name for name in registered if name in names), *sorted(set(names) - set(registered))]

    def origins(self) -> Mapping[str, tuple[Origin, ...]]:
        """Return where each item is defined; more than one origin is a conflict."""
        return _origins(self.group)

    def load(self, name: str) -> Any:
        """Import an item.  Raises UserError for an unknown name and a conflict, BrokenItem for a failing import."""
        if problem := self.problem(name):
            raise UserError(f"{name!r}: {problem}")
        origin = _origins(self.group)[name][0]
        try:
            module = importlib.import_module(origin.module)
            return getattr(module, origin.attribute) if origin.attribute else module
        except (Exception, SystemExit) as error:  # whatever the module of another package does at its import
            if origin.package == OWN_PACKAGE:
                raise
            raise BrokenItem(
                f"{self.kind} {name!r} of the package {origin.package} cannot be loaded "
                f"({type(error).__name__}: {first_line(error)}); update or uninstall that package"
            ) from error

    def items(self) -> Iterator[tuple[str, Any]]:
        """Import all items in the order of `names`; one of another package that cannot be imported is left out, loudly.

        Raises UserError for a name that two packages register.
        """
        for name in self.names():
            try:
                item = self.load(name)
            except BrokenItem as error:
                _warn(str(error))
            else:
                yield name, item

    def summary(self, name: str) -> str:
        """Return what an item is, in one line: the first of its docstring, read without importing its module."""
        if problem := self.problem(name):
            return problem
        origin = _origins(self.group)[name][0]
        docstring = module_docstrings(origin.module).get(origin.attribute, f"({origin.module} has no docstring for it)")
        return docstring.partition("\n")[0].removesuffix(".")

    def problem(self, name: str) -> str | None:
        """Return why a name cannot be used, with the nearest known one; None for an item."""
        origins = _origins(self.group).get(name, ())
        if len(origins) == 1:
            return None
        if origins:
            packages = ", ".join(sorted(origin.package for origin in origins))
            return f"{self.kind} registered by {packages}; uninstall all but one"
        return f"unknown {self.kind}; {suggest(name, self.names())}"


@dataclass(frozen=True)
class ItemOf:
    """Mark of a config field: its string, or each of its list, names an item of a registry.

    also: values that are allowed besides the items, such as `auto`.
    """

    registry: Registry
    also: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Return all allowed values."""
        return (*self.also, *self.registry.names())

    def violation(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None."""
        values = value if isinstance(value, tuple | list) else (value,)
        for name in values:
            if name not in self.also and (problem := self.registry.problem(str(name))):
                return f'"{name}": {problem}' if values is value else problem
        return None


@functools.cache
def _warn(problem: str) -> None:
    """Print a problem once per process."""
    say("plug-in", f"left out: {problem}")


@functools.cache
def _origins(group: str) -> dict[str, tuple[Origin, ...]]:
    origins: dict[str, tuple[Origin, ...]] = {name: (origin,) for name, origin in _own(group)}
    for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else point.module.partition(".")[0]
        if package != OWN_PACKAGE:  # an installation's copy of our file may be older than the file
            origins[point.name] = (*origins.get(point.name, ()), _origin(package, point.value))
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
