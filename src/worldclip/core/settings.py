"""Configs: read and write TOML, apply overrides, report every problem at once, and tell which keys decide which output.

A config is a frozen dataclass, derived from Config, next to the code that uses it.  Marks in `Annotated` say more about
a field (core/marks.py).  Imports the standard library only, so that a command's help stays fast.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.fields import (
    BuildProblems,
    Table,
    apply_override,
    build,
    convert,
    fields_of,
    has_only_sections,
    is_marked,
    message,
    must_be,
    prefix_of,
    section_name,
)
from worldclip.core.local_path import nearest_path
from worldclip.core.marks import Above as Above
from worldclip.core.marks import AtLeast as AtLeast
from worldclip.core.marks import Between as Between
from worldclip.core.marks import Decides as Decides
from worldclip.core.marks import NotEmpty as NotEmpty
from worldclip.core.marks import Place as Place
from worldclip.core.printable import command_line
from worldclip.core.redact import redact_record
from worldclip.core.registry import ItemOf
from worldclip.core.regular_file import NotRegular, read_regular
from worldclip.core.safe_path import is_safe_name
from worldclip.core.suggest import suggest

SECTIONS = ("pool", "languages", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
"""The sections of a recipe's file; worldclip.config.Recipe has a field for each."""
LARGEST_INTEGER = 2**63 - 1  # that numpy and Arrow hold

Problems = Iterator[tuple[str, str]]  # (key within the section or "" for the section itself, what is wrong)


class Config:
    """Base of all configs, frozen dataclasses: reports every problem of its values and of nested configs."""

    __slots__ = ()
    SECTION: ClassVar[str | None] = None  # the recipe's section, where the name of the class does not say it

    def problems(self) -> list[str]:
        """Return every problem, each with key, value and remedy; empty where the config is valid."""
        return list(_iter_problems(self, prefix_of(type(self))))

    def own_problems(self) -> Problems:
        """Yield the problems that no mark states: keys that contradict each other, files that do not exist."""
        return iter(())


def deciding(config: Any, output: str, default: Decides | None = None) -> Table:
    """Return the fields of a section that decide `output`, as `to_dict` writes them.

    output: a stage, or a part of one (Decides).  default: the mark of a field without one; None: its section's stage.
    This is the only query for the keys of manifests and markers.
    """
    default = default or Decides(section_name(type(config)))
    values: Table = to_dict(config)
    for name, (_, marks) in fields_of(config.__class__).items():
        mark = next((mark for mark in marks if isinstance(mark, Decides)), default)
        value = getattr(config, name)
        if not mark.covers(output):
            values.pop(name, None)
        elif isinstance(value, Config):
            values[name] = deciding(value, output, default)
    return values


def with_absolute_places(config: Any, folder: Path | None = None) -> Any:
    """Return a config whose paths (Place) are absolute: relative ones start at `folder` (default: the working one)."""
    folder = folder or Path.cwd()
    values = {}
    for name, (_, marks) in fields_of(config.__class__).items():
        value = getattr(config, name)
        if isinstance(value, dict):
            sections = {item: with_absolute_places(v, folder) for item, v in value.items() if isinstance(v, Config)}
            value = {**value, **sections}
        elif isinstance(value, Config):
            value = with_absolute_places(value, folder)
        elif _is_list_of_configs(value):
            value = tuple(with_absolute_places(item, folder) for item in value)
        for mark in marks:
            if isinstance(mark, Place):
                value = mark.resolve(value, folder)
        values[name] = value
    return dataclasses.replace(config, **values)


def _is_list_of_configs(value: Any) -> bool:
    """Return whether a value is a list of configs: tables of one name, [[pool.place]]."""
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Config)


# --- loading ----------------------------------------------------------------------------------------------------------


def read_toml(path: Path) -> Table:
    """Read the tables of a TOML file, or of a run's recipe.toml.

    `base = "other.toml"` in its first lines, a file next to it, gives the keys that it does not set itself.  Raises
    UserError where there is no file.
    """
    tables = _parse(path)
    if "base" not in tables:
        return tables
    name = tables.pop("base")
    if not is_safe_name(name) or "/" in name:
        raise UserError(f'{path}: base = {name!r}: must be the name of a recipe in the same folder, as in "emoji.toml"')
    folder = path if path.is_dir() else path.parent
    file = folder / name
    base = _parse(file)
    if "base" in base:
        raise UserError(f"{path}: base = {name!r}: {file} has a base itself; give the whole recipe")
    return _merge(base, tables)


def _merge(base: Table, tables: Table) -> Table:
    """Return the keys of both, table by table; those of `tables` win."""
    merged = {**base, **tables}
    for name in base.keys() & tables.keys():
        if isinstance(base[name], dict) and isinstance(tables[name], dict):
            merged[name] = _merge(base[name], tables[name])
    return merged


def _parse(path: Path) -> Table:
    file = job_files.recipe(path) if path.is_dir() else path
    if path.is_dir() and file.exists() and not job_files.is_run(path):
        raise UserError(f"{path} is an exported model, not a run; give {file}, or the run that it is from")
    if not file.exists():
        if path.is_dir():
            remedy = f"for a folder of pairs: {command_line('init', path)}"
            raise UserError(f"{path} holds no recipe.toml; give a recipe (.toml) or the folder of a run; {remedy}")
        raise UserError(f"{path} does not exist; {nearest_path(str(path))}give a recipe (.toml) or the folder of a run")
    try:
        return tomllib.loads(read_regular(file).decode("utf-8-sig"))  # editors on Windows begin files with a mark
    except NotRegular as error:
        raise UserError(f"{file} {error.strerror}; give a recipe (.toml) or the folder of a run") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8" if path.suffix == ".toml" else f"for a file of pairs: {command_line('init', path)}"
        raise UserError(f"{file} is not valid TOML: {error}; {remedy}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:  # the latter: nested too deeply
        raise UserError(f"{file} is not valid TOML: {error}") from error


def read_sections(path: Path) -> Table:
    """Read the sections of a recipe, a TOML file or a run's recipe.toml; their keys are checked when one is used.

    Raises UserError where there is no file, and for unknown sections.
    """
    tables = read_toml(path)
    unknown = [name for name in tables if name not in SECTIONS]
    if unknown:
        raise UserError([f"{path}: unknown section {name}; {suggest(name, SECTIONS)}" for name in unknown])
    return tables


def load_config(
    cls: type,
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> Any:
    """Load a config class from a TOML file, a run's folder or nested dicts, with `key=value` overrides.

    Relative paths in a TOML file are relative to `folder`, by default its own (Place), those of overrides to the
    working directory; all become absolute.  Raises UserError with every unknown key and wrong type; where there is
    none, with every value that is out of range and all contradictions.
    """
    values = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    if folder is None and not isinstance(source, Mapping) and os.path.isfile(source):
        folder = Path(source).parent
    problems = BuildProblems(cls)
    prefix = prefix_of(cls)
    config: Config = build(cls, values, prefix, problems)
    if folder is not None:
        config = with_absolute_places(config, folder)
    if overrides:
        values = to_dict(config)
        for override in overrides:
            apply_override(values, override, problems, in_sections=has_only_sections(cls))
        config = with_absolute_places(build(cls, values, prefix, problems))
    all_problems = problems or config.problems()
    if all_problems:
        raise UserError(all_problems)
    return config


# --- writing ----------------------------------------------------------------------------------------------------------


def to_dict(config: Any) -> Any:
    """Return nested dicts of a config, or of a part of one, for JSON and TOML: unset keys left out, tuples as lists."""
    if isinstance(config, Mapping):
        return {name: to_dict(value) for name, value in config.items()}
    if isinstance(config, tuple):
        return list(map(to_dict, config))
    if not dataclasses.is_dataclass(config):
        return config
    values = {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value is not None}


def to_toml(sections: Any) -> str:
    """Return TOML of a config with all defaults, or of {section: config or its table}; loadable as it is."""
    import tomli_w

    return tomli_w.dumps(to_dict(sections))


# --- checking ---------------------------------------------------------------------------------------------------------


_CREDENTIAL = (
    "holds a credential (a user before @, or a parameter named like a key, token or signature), which the run would "
    "record; remove it and use fsspec's environment or config file"
)
_UNSAFE = "must not be empty, begin with / or contain .."


def _iter_problems(config: Any, prefix: str) -> Iterator[str]:
    """Yield violated bounds, then the config's own problems unless a name in it is unknown."""
    are_choices_valid = True
    for name, (hint, marks) in fields_of(config.__class__).items():
        value = getattr(config, name)
        if redact_record([value]) != [value]:  # in a list: NaN itself is not equal to itself
            yield f"{prefix}{name}: {_CREDENTIAL}"
        items = {name: value}
        if isinstance(value, dict):
            yield from (f'{prefix}{name}: the name "{item}" {_UNSAFE}' for item in value if not is_safe_name(item))
            items = {f"{name}.{item}": value[item] for item in value}
        elif _is_list_of_configs(value):
            items = {f"{name}[{number}]": item for number, item in enumerate(value, 1)}
        for key, item in items.items():
            if isinstance(item, Config):
                yield from _iter_problems(item, f"{prefix}{key}.")
                continue
            violation = _violation(hint, marks, item)
            if violation:
                yield message(f"{prefix}{key}", item, violation)
                are_choices_valid &= typing.get_origin(hint) is not Literal and not is_marked(marks, ItemOf)
    if not are_choices_valid:
        return
    for key, text in config.own_problems():
        name, _, item = key.partition(".")  # `lr`, or an item of a table: `tail_fractions.sw`
        value = getattr(config, name, None)
        if isinstance(value, dict):
            value = value.get(item)
        yield message(f"{prefix}{key}".removesuffix("."), value, text)


def value_problem(cls: type, key: str, value: Any) -> str | None:
    """Return what is wrong with a value of the field `key` of a config class, or None."""
    if key not in fields_of(cls):
        return f"unknown key; {suggest(key, fields_of(cls))}"
    hint, marks = fields_of(cls)[key]
    try:
        return _violation(hint, marks, convert(value, hint, key))
    except (TypeError, OverflowError):
        return must_be(value, hint)


def _violation(hint: Any, marks: Sequence[Any], value: Any) -> str | None:
    """Return what a value must be; None where it is unset or within the bounds."""
    if value is None:
        return None
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        return must_be(value, hint)
    for mark in marks:
        if isinstance(mark, Between | NotEmpty | ItemOf) and mark.violation(value):
            return mark.violation(value)
    if typing.get_origin(hint) is dict:  # its values have marks, or a config of their own
        return None
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "must fit 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    return None
