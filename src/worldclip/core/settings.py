"""Configs: read TOML, apply overrides, report every problem at once, and tell which keys decide which output.

A config is a frozen dataclass, derived from Config, next to the code that uses it.  Marks in `Annotated` say more about
a field (core/marks.py).  Imports the standard library only, so that a command's help stays fast.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

from worldclip.core.errors import UserError
from worldclip.core.marks import Above as Above
from worldclip.core.marks import AtLeast as AtLeast
from worldclip.core.marks import Between as Between
from worldclip.core.marks import Decides as Decides
from worldclip.core.marks import NotEmpty as NotEmpty
from worldclip.core.marks import Place as Place
from worldclip.core.redact import has_credential
from worldclip.core.registry import ItemOf
from worldclip.core.safe_path import is_safe_name
from worldclip.core.toml_files import SECTIONS as SECTIONS
from worldclip.core.toml_files import Table, nearest, suggest
from worldclip.core.toml_files import read_sections as read_sections
from worldclip.core.toml_files import read_toml as read_toml

Problems = Iterator[tuple[str, str]]  # (key within the section or "" for the section itself, what is wrong)


SectionOf = Callable[[type], Any]  # the class of a section's config -> that section of a recipe


class Config:
    """Base of all configs, frozen dataclasses: reports every problem of its values and of nested configs."""

    __slots__ = ()
    SECTION: ClassVar[str | None] = None  # the recipe's section, where the name of the class does not say it

    def problems(self) -> list[str]:
        """Return every problem, each with key, value and remedy; empty where the config is valid."""
        return list(_iter_problems(self, _prefix(type(self)), frozenset(), _sections_in(self)))

    def own_problems(self) -> Problems:
        """Yield the problems that no mark states: keys that contradict each other, files that do not exist."""
        return iter(())

    def problems_with_others(self, section_of: SectionOf) -> Problems:
        """Yield the problems of this section with others of its recipe; section_of: returns one by its class."""
        return iter(())


def _sections_in(config: Any) -> SectionOf | None:
    """Return how a whole recipe finds its sections; None for a config that is none."""
    if section_name(type(config)):
        return None
    return lambda cls: getattr(config, section_name(cls))


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
    values = to_dict(config)
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
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def with_value(config: Any, path: Sequence[str], value: Any) -> Any:
    """Return a config, or a table, with another value at a path of names; a table keeps its other items."""
    name, *rest = path
    is_table = isinstance(config, dict)
    old = config[name] if is_table else getattr(config, name)
    if rest:
        value = with_value(old, rest, value)
    elif isinstance(old, dict) and isinstance(value, dict):
        value = {**old, **value}
    return {**config, name: value} if is_table else dataclasses.replace(config, **{name: value})


def with_absolute_places(config: Any) -> Any:
    """Return a config whose paths (Place) are absolute: relative ones start at the working directory."""
    fields = fields_of(config.__class__).items()
    values = {name: _with_absolute_places(getattr(config, name), marks) for name, (_, marks) in fields}
    return dataclasses.replace(config, **values)


def _with_absolute_places(value: Any, marks: Sequence[Any]) -> Any:
    if dataclasses.is_dataclass(value):
        return with_absolute_places(value)
    if isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
        return {name: with_absolute_places(item) for name, item in value.items()}
    for mark in marks:
        if isinstance(mark, Place):
            value = mark.resolve(value, Path.cwd())
    return value


# --- loading ----------------------------------------------------------------------------------------------------------


def load_config(
    cls: type,
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    folder: Path | None = None,
    *,
    is_final: bool = True,
    section_of: SectionOf | None = None,
) -> Any:
    """Load a config class from a TOML file, a run's folder or nested dicts, with `key=value` overrides.

    Relative paths in a TOML file are relative to `folder`, by default its own (Place), those of overrides to the
    working directory; all become absolute.  Raises UserError with every problem.  Keys of one section that depend on
    each other are compared only where all of its keys are known and of the right type: a misspelled key is reported
    without its consequences.
    is_final: False for values that flags may still replace: only unknown keys and wrong types are problems, and the
    caller asks for `problems` afterwards.
    section_of: returns another section of the recipe, by its class, where `cls` is one section of it.
    """
    values = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else read_toml(Path(source))
    loader = _Loader()
    if folder is None and not isinstance(source, Mapping) and os.path.isfile(source):
        folder = Path(source).parent
    if folder is not None:
        _resolve_places(cls, values, folder)
    for override in overrides:
        _apply_override(values, override, loader.problems, _has_only_sections(cls))
        name, _, text = override.partition("=")
        loader.words[f"{_prefix(cls)}{name.strip()}"] = text.strip()
    config: Config = loader.build(cls, values, _prefix(cls))
    if overrides:
        config = with_absolute_places(config)
    problems = [
        *loader.problems,
        *_iter_problems(config, _prefix(cls), loader.broken, section_of or _sections_in(config)),
    ]
    if loader.problems or (problems and is_final):
        raise UserError(problems)
    return config


def _resolve_places(cls: type, values: Table, folder: Path) -> None:
    """Make the relative paths of a TOML file absolute, in place; values of a wrong type stay for the loader."""
    for name, (hint, marks) in fields_of(cls).items():
        value = values.get(name)
        configs = [option for option in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(option)]
        if configs and isinstance(value, dict):
            tables = [value] if hint in configs else [item for item in value.values() if isinstance(item, dict)]
            for table in tables:
                _resolve_places(typing.cast(type, configs[0]), table, folder)
        for mark in marks:
            if isinstance(mark, Place) and value is not None:
                values[name] = mark.resolve(value, folder)


def _has_only_sections(cls: type) -> bool:
    return all(dataclasses.is_dataclass(hint) for hint, _ in fields_of(cls).values())


def _apply_override(values: Table, override: str, problems: list[str], in_sections: bool) -> None:
    name, separator, text = override.partition("=")
    if not separator or (in_sections and "." not in name):
        problems.append(f"--set {override!r}: expected section.key=value, for example balance.tail_fraction=0.06")
        return
    value = _toml_value(text)
    *sections, key = name.strip().split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            problems.append(f"--set {override!r}: {section} is a value, not a section")
            return
    if value == "none":
        table.pop(key, None)  # TOML has no null: `none` resets a key to its default
    else:
        table[key] = value


def overridden_keys(override: str) -> list[tuple[str, ...]]:
    """Return the keys that an override sets, as their parts: of an inline table, those of its items."""
    name, _, text = override.partition("=")
    return _leaves(tuple(name.strip().split(".")), _toml_value(text))


def _leaves(key: tuple[str, ...], value: Any) -> list[tuple[str, ...]]:
    if not isinstance(value, Mapping) or not value:
        return [key]
    return [leaf for name, item in value.items() for leaf in _leaves((*key, name), item)]


def _toml_value(text: str) -> Any:
    """Return the value that `text` is in TOML, else a bare word: --set match.profile=unicode."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return _Bare(text)


def _is_list(hint: Any) -> bool:
    """Return whether a field is a list, and no plain string either."""
    options = options_of(hint)
    return any(typing.get_origin(option) is tuple for option in options) and str not in options


class _Bare(str):
    """The text of an override that is not TOML: a string, or the items of a list with commas between them."""

    __slots__ = ()

    def items(self) -> list[str]:
        return [item.strip() for item in self.split(",") if item.strip()]


class _Loader:
    """Builds configs from nested dicts; collects problems and the prefixes of broken sections."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.broken: set[str] = set()
        self.words: dict[str, str] = {}  # values of overrides as typed, by key

    def build(self, cls: Any, values: Any, prefix: str) -> Any:
        """Return a config of `values`; keys with a problem keep their default."""
        arguments = {}
        if not isinstance(values, Mapping):
            section = prefix.removesuffix(".")
            self._report(prefix, _message(section, values, f"must be a section, [{section}]"))
            values = {}
        for key, value in values.items():
            if key not in fields_of(cls):
                kind = "section" if _has_only_sections(cls) else "key"
                self._report(prefix, f"unknown {kind} {prefix}{key}; {suggest(key, fields_of(cls))}")
                self.broken.update(f"{prefix}{name}." for name in nearest(key, fields_of(cls)))  # the section meant
                continue
            hint, marks = fields_of(cls)[key]
            if isinstance(value, _Bare) and value.items() and _is_list(hint):
                has_paths = any(isinstance(mark, Place) for mark in marks)  # paths may hold commas
                items = [str(value)] if has_paths else value.items()
                value = [_toml_value(item) for item in items]
                self.words |= {f"{prefix}{key}[{number}]": item for number, item in enumerate(items)}
            try:
                arguments[key] = self.convert(value, hint, f"{prefix}{key}")
            except (TypeError, OverflowError):  # an integer too large for float
                self._report(prefix, _message(f"{prefix}{key}", value, f"must be {_describe(hint)}"))
        return cls(**arguments)

    def convert(self, value: Any, hint: Any, key: str) -> Any:
        """Convert a TOML value to a type: str, int, float, bool, Literal, union, tuple[X, ...], dict[str, X], a config.

        An override of a string may look like a number or a date: --set pool.path=2024.  Raises TypeError for a value of
        another type.
        """
        try:
            return self._convert(value, hint, key)
        except TypeError:
            if key in self.words and str in options_of(hint):
                return self.words[key]
            raise

    def _convert(self, value: Any, hint: Any, key: str) -> Any:
        origin, args, options = typing.get_origin(hint), typing.get_args(hint), options_of(hint)
        if dataclasses.is_dataclass(hint):
            return self.build(hint, value, f"{key}.")
        if len(options) > 1:
            for option in options:
                try:
                    return self._convert(value, option, key)
                except TypeError:
                    continue
        elif origin is Literal:
            if value in args and not isinstance(value, bool):
                return args[args.index(value)]  # a plain string, whatever `value` is
        elif origin is tuple:
            if isinstance(value, list | tuple):
                return tuple(self.convert(item, args[0], f"{key}[{number}]") for number, item in enumerate(value))
        elif origin is dict:
            if isinstance(value, Mapping):
                return {str(name): self.convert(item, args[1], f"{key}.{name}") for name, item in value.items()}
        elif hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
            return str(value) if isinstance(value, _Bare) else value
        raise TypeError(value)

    def _report(self, prefix: str, problem: str) -> None:
        self.problems.append(problem)
        self.broken.add(prefix)


# --- checking ---------------------------------------------------------------------------------------------------------


_CREDENTIAL = (
    "holds a credential (a user and password, a token, a signature), which the run would record; use fsspec's "
    "environment or config file"
)
_UNSAFE = "must not be empty, begin with / or contain .."


def _iter_problems(config: Any, prefix: str, broken: Set[str], section_of: SectionOf | None) -> Iterator[str]:
    """Yield violated bounds, then the config's own problems unless it, or a config in it, is `broken`."""
    are_choices_valid = True
    for name, (hint, marks) in fields_of(config.__class__).items():
        value = getattr(config, name)
        if has_credential(value):
            yield f"{prefix}{name}: {_CREDENTIAL}"
        if isinstance(value, dict):
            yield from (f'{prefix}{name}: the name "{item}" {_UNSAFE}' for item in value if not is_safe_name(item))
        items = {f"{name}.{item}": value[item] for item in value} if isinstance(value, dict) else {name: value}
        for key, item in items.items():
            if isinstance(item, Config):
                yield from _iter_problems(item, f"{prefix}{key}.", broken, section_of)
            elif text := _violation(hint, marks, item):
                yield _message(f"{prefix}{key}", item, text)
                names_no_item = any(isinstance(mark, ItemOf) and mark.violation(item) for mark in marks)
                are_choices_valid &= typing.get_origin(hint) is not Literal and not names_no_item
    if are_choices_valid and not any(place.startswith(prefix) for place in broken):
        with_others = config.problems_with_others(section_of) if section_of is not None else ()
        for key, text in itertools.chain(config.own_problems(), with_others):
            name, _, item = key.partition(".")  # `lr`, or an item of a table: `tail_fractions.sw`
            value = getattr(config, name, None)
            value = value.get(item) if isinstance(value, dict) else value
            yield _message(f"{prefix}{key}".removesuffix("."), value, text)


def value_problem(cls: type, key: str, value: Any) -> str | None:
    """Return what is wrong with a value of the field `key` of a config class, or None."""
    if key not in fields_of(cls):
        return f"unknown key; {suggest(key, fields_of(cls))}"
    hint, marks = fields_of(cls)[key]
    try:
        return _violation(hint, marks, _Loader().convert(value, hint, key))
    except (TypeError, OverflowError):
        return f"must be {_describe(hint)}"


def _violation(hint: Any, marks: Sequence[Any], value: Any) -> str | None:
    """Return what a value must be; None where it is unset or within the bounds."""
    if value is None:
        return None
    if typing.get_origin(hint) is Literal and value not in typing.get_args(hint):
        return f"must be {_describe(hint)}"
    if not _fits(value):
        return "must have at most 64 bits, as TOML's integers"
    violations = (mark.violation(value) for mark in marks if isinstance(mark, Between | NotEmpty | ItemOf))
    return next(filter(None, violations), None)


def _fits(value: Any) -> bool:
    """Return whether an integer, or each of those in a list, has at most 64 bits."""
    return all(map(_fits, value)) if isinstance(value, tuple) else not isinstance(value, int) or abs(value) < 2**63


def _message(key: str, value: Any, text: str) -> str:
    """Return `key = value: text`, or `key: text` where the value is unset, a list, a table or secret."""
    is_secret = isinstance(value, str) and "://" in value and "@" in value  # a URL may hold a password
    if is_secret or not (isinstance(value, str | int | float) or value in ((), [])):
        return f"{key}: {text}"
    return f"{key} = {json.dumps(value, ensure_ascii=False)}: {text}"


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    options = [option for option in options_of(hint) if option is not type(None)]
    if options != [hint]:
        return " or ".join(map(_describe, options))
    if origin is Literal:
        return f"one of {', '.join(json.dumps(option) for option in args)}"
    if origin is tuple:
        return f"a list, each {_describe(args[0])}"
    if origin is dict:
        return f"a table of name = {_describe(args[1])}"
    if dataclasses.is_dataclass(hint):
        return f"a table of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return _WORDS.get(hint, str(hint))


# --- writing ----------------------------------------------------------------------------------------------------------


def to_dict(config: Any) -> Table:
    """Return nested dicts of a config, ready for JSON and TOML: unset keys left out, tuples as lists."""
    values = {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def to_toml(sections: Any) -> str:
    """Return TOML of a config with all defaults, or of {section: config or its table}; loadable as it is."""
    import tomli_w

    if isinstance(sections, Mapping):
        return tomli_w.dumps({name: _plain(config) for name, config in sections.items()})
    return tomli_w.dumps(to_dict(sections))
