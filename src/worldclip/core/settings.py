"""Configs: read and write TOML, apply overrides, report every problem at once, and tell which keys decide which output.

A config is a frozen dataclass, derived from Config, next to the code that uses it.  Marks in `Annotated` say more about
a field (core/marks.py).  Imports the standard library only, so that a command's help stays fast.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from worldclip.core import job_files
from worldclip.core.errors import UserError
from worldclip.core.local_path import nearest_path
from worldclip.core.marks import Above as Above
from worldclip.core.marks import AtLeast as AtLeast
from worldclip.core.marks import Between as Between
from worldclip.core.marks import Decides as Decides
from worldclip.core.marks import NotEmpty as NotEmpty
from worldclip.core.marks import Place as Place
from worldclip.core.redact import redact_record
from worldclip.core.registry import ItemOf
from worldclip.core.regular_file import NotRegular, read_regular
from worldclip.core.safe_path import is_safe_name
from worldclip.core.suggest import nearest, suggest

Table = dict[str, Any]  # a TOML table
SECTIONS = ("pool", "languages", "metadata", "match", "balance", "curate", "train", "evaluate", "export")
"""The sections of a recipe's file; worldclip.config.Recipe has a field for each."""
LARGEST_INTEGER = 2**63 - 1  # of numpy and Arrow

Problems = Iterator[tuple[str, str]]  # (key within the section or "" for the section itself, what is wrong)


class Config:
    """Base of all configs, frozen dataclasses: reports every problem of its values and of nested configs."""

    __slots__ = ()
    SECTION: ClassVar[str | None] = None  # the recipe's section, where the name of the class does not say it

    def problems(self) -> list[str]:
        """Return every problem, each with key, value and remedy; empty where the config is valid."""
        return list(_iter_problems(self, _prefix(type(self))))

    def own_problems(self) -> Problems:
        """Yield the problems that no mark states: keys that contradict each other, files that do not exist."""
        return iter(())


def section_name(cls: type) -> str:
    """Return the section of the recipe that a config class describes: BalanceConfig -> balance."""
    section: str | None = getattr(cls, "SECTION", None)
    return cls.__name__.removesuffix("Config").lower() if section is None else section


def _prefix(cls: type) -> str:
    section = section_name(cls)
    return f"{section}." if section else ""


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


@functools.cache
def fields_of(cls: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return (type, marks) of each field of a config class."""
    hints = typing.get_type_hints(cls, include_extras=True)
    bare = typing.get_type_hints(cls)
    return {
        field.name: (bare[field.name], getattr(hints[field.name], "__metadata__", ()))
        for field in dataclasses.fields(cls)
    }


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the only type."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


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
            remedy = f"for a folder of pairs: worldclip init {path}"
            raise UserError(f"{path} holds no recipe.toml; give a recipe (.toml) or the folder of a run; {remedy}")
        raise UserError(f"{path} does not exist; {nearest_path(str(path))}give a recipe (.toml) or the folder of a run")
    try:
        return tomllib.loads(read_regular(file).decode("utf-8-sig"))  # editors on Windows begin files with a mark
    except NotRegular as error:
        raise UserError(f"{file} {error.strerror}; give a recipe (.toml) or the folder of a run") from error
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8" if path.suffix == ".toml" else f"for a file of pairs: worldclip init {path}"
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
    problems = _BuildProblems(cls)
    prefix = _prefix(cls)
    config: Config = _build(cls, values, prefix, problems)
    if folder is not None:
        config = with_absolute_places(config, folder)
    if overrides:
        values = to_dict(config)
        for override in overrides:
            _apply_override(values, override, problems, in_sections=_has_only_sections(cls))
        config = with_absolute_places(_build(cls, values, prefix, problems))
    all_problems = problems or config.problems()
    if all_problems:
        raise UserError(all_problems)
    return config


class _BuildProblems(list[str]):
    """Problems of a source.  root: the config class that is built of it, whose keys are suggested for unknown ones."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self.root = root

    def add_unknown(self, cls: Any, prefix: str, key: str) -> None:
        """Add an unknown key of a config class, with the nearest of all keys, and the nearest of the class."""
        own_names = {name: name for name in fields_of(cls)}
        names = {**_key_paths(self.root, _prefix(self.root)), **own_names}
        near = [names[name] for name in nearest(key, names)]
        near += [name for name in nearest(key, own_names) if name not in near]
        kind = "section" if _has_only_sections(cls) else "key"
        remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(fields_of(cls))}"
        self.append(f"unknown {kind} {prefix}{key}; {remedy}")


def _key_paths(cls: Any, prefix: str) -> dict[str, str]:
    """Return the keys of a config class and of its sections: {"patch_size": "train.model.patch_size"}."""
    paths = {}
    for name, (hint, _) in fields_of(cls).items():
        paths[name] = f"{prefix}{name}"
        if dataclasses.is_dataclass(hint):
            paths |= _key_paths(hint, f"{prefix}{name}.")
    return paths


def _has_only_sections(cls: type) -> bool:
    """Return whether a config class is a whole recipe, whose fields are the configs of the stages."""
    return all(dataclasses.is_dataclass(hint) for hint, _ in fields_of(cls).values())


def _apply_override(values: Table, override: str, problems: list[str], *, in_sections: bool) -> None:
    """Set a key of nested dicts; in_sections: the keys of `values` itself are sections, as in a recipe."""
    name, separator, text = override.partition("=")
    if not separator or (in_sections and "." not in name):
        problems.append(f"--set {override!r}: expected section.key=value, for example balance.tail_fraction=0.06")
        return
    *sections, key = name.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            problems.append(f"--set {override!r}: {section} is a value, not a section")
            return
    value = _toml_value(text)
    if text.strip() == "none":
        table.pop(key, None)  # TOML has no null: `none` resets a key to its default
    else:
        table[key] = value if isinstance(value, dict) else Text(text.strip())


class Text(str):
    """A value as it is typed, by --set or a flag; the type of its key says what it is."""

    __slots__ = ()


def _toml_value(text: str) -> Any:
    """Return the value that a text is in TOML, None where it is none, such as a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def _build(cls: Any, values: Any, prefix: str, problems: _BuildProblems) -> Any:
    """Return a config of nested dicts; keys with a problem, which is added to `problems`, keep their default."""
    if not isinstance(values, Mapping):
        section = prefix.removesuffix(".")
        problems.append(_message(section, values, f"must be a section, [{section}]"))
        values = {}
    arguments = {}
    for key, value in values.items():
        if key not in fields_of(cls):
            problems.add_unknown(cls, prefix, key)
            continue
        hint, marks = fields_of(cls)[key]
        try:
            arguments[key] = convert(value, hint, f"{prefix}{key}", problems, has_paths=is_marked(marks, Place))
        except (TypeError, OverflowError):  # an integer too large for float
            problems.append(_message(f"{prefix}{key}", value, must_be(value, hint)))
    return cls(**arguments)


def is_marked(marks: Sequence[Any], kind: type) -> bool:
    """Return whether one of the marks is of a kind."""
    return any(isinstance(mark, kind) for mark in marks)


def convert(
    value: Any, hint: Any, key: str = "", problems: _BuildProblems | None = None, *, has_paths: bool = False
) -> Any:
    """Convert a value of TOML, or a Text, to a type: str, int, float, bool, Literal, union, list, table or config.

    key: of the value, for `problems` of configs in it.  has_paths: a path may hold commas, at which a Text is no list.
    Raises TypeError for a value of another type.
    """
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    options = options_of(hint)
    if isinstance(value, Text):
        return _convert_text(value, hint, key, problems, has_paths=has_paths)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{key}.", _BuildProblems(hint) if problems is None else problems)
    if len(options) > 1:
        for option in options:
            try:
                return convert(value, option, key, problems)
            except TypeError:
                continue
    elif origin is Literal:
        if value in args and not isinstance(value, bool):
            return args[args.index(value)]
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(convert(item, args[0], key, problems) for item in value)
    elif origin is dict:
        if isinstance(value, Mapping):
            return {str(name): convert(item, args[1], f"{key}.{name}", problems) for name, item in value.items()}
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError(value)


def _convert_text(text: Text, hint: Any, key: str, problems: _BuildProblems | None, *, has_paths: bool) -> Any:
    """Convert what is typed: as TOML if that is of the type, else as a bare word, else as a list with commas."""
    for value in (_toml_value(text), str(text)):
        try:
            if value is not None:
                return convert(value, hint, key, problems)
        except TypeError:
            continue
    for option in options_of(hint):
        if typing.get_origin(option) is tuple and text:
            items: list[str] = [text]
            if not has_paths:
                items = [item.strip() for item in text.split(",") if item.strip()]
            return tuple(convert(Text(item), typing.get_args(option)[0], key, problems) for item in items)
    raise TypeError(text)


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
                yield _message(f"{prefix}{key}", item, violation)
                are_choices_valid &= typing.get_origin(hint) is not Literal and not is_marked(marks, ItemOf)
    if not are_choices_valid:
        return
    for key, text in config.own_problems():
        name, _, item = key.partition(".")  # `lr`, or an item of a table: `tail_fractions.sw`
        value = getattr(config, name, None)
        if isinstance(value, dict):
            value = value.get(item)
        yield _message(f"{prefix}{key}".removesuffix("."), value, text)


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


def _message(key: str, value: Any, text: str) -> str:
    """Return `key = value: text`, or `key: text` where the value is unset, a list, a table or secret."""
    is_secret = isinstance(value, str) and "://" in value and "@" in value  # a URL may hold a password
    if is_secret or not (isinstance(value, str | int | float) or value in ((), [])):
        return f"{key}: {text}"
    return f"{key} = {json.dumps(value, ensure_ascii=False)}: {text}"


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def must_be(value: Any, hint: Any) -> str:
    """Return what a value of another type must be, with the nearest choices where there are some."""
    choices: list[str] = []
    for kind in options_of(hint):
        item = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else kind
        if typing.get_origin(item) is Literal:
            choices += map(str, typing.get_args(item))
    names = value if isinstance(value, list | tuple) else str(value).split(",")
    near: list[str] = []
    for name in names:
        if name not in choices:
            near += nearest(str(name), choices)
    remedy = f"; did you mean {', '.join(near)}?" if near else ""
    return f"must be {describe(hint)}{remedy}"


def describe(hint: Any) -> str:
    """Return what a value of a type is, for messages."""
    origin = typing.get_origin(hint)
    args = typing.get_args(hint)
    options = [option for option in options_of(hint) if option is not type(None)]
    if options != [hint]:
        return " or ".join(map(describe, options))
    if origin is Literal:
        return f"one of {', '.join(json.dumps(option) for option in args)}"
    if origin is tuple:
        return f"a list, each {describe(args[0])}"
    if origin is dict:
        return f"a table of name = {describe(args[1])}"
    if dataclasses.is_dataclass(hint):
        return f"a table of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return _WORDS.get(hint, str(hint))
