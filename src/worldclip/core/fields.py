"""The fields of a config class, and values of TOML or of the command line as what the fields hold.

A problem of a value is noted with its key, and the field keeps its default: so all problems are reported at once.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from worldclip.core.marks import Place
from worldclip.core.suggest import nearest

Table = dict[str, Any]  # a TOML table


def section_name(cls: type) -> str:
    """Return the section of the recipe that a config class describes: BalanceConfig -> balance."""
    section: str | None = getattr(cls, "SECTION", None)
    return cls.__name__.removesuffix("Config").lower() if section is None else section


def prefix_of(cls: type) -> str:
    section = section_name(cls)
    return f"{section}." if section else ""


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


class BuildProblems(list[str]):
    """Problems of a source.  root: the config class that is built of it, whose keys are suggested for unknown ones."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self.root = root

    def add_unknown(self, cls: Any, prefix: str, key: str) -> None:
        """Add an unknown key of a config class, with the nearest of all keys, and the nearest of the class."""
        own_names = {name: name for name in fields_of(cls)}
        names = {**_key_paths(self.root, prefix_of(self.root)), **own_names}
        near = [names[name] for name in nearest(key, names)]
        near += [name for name in nearest(key, own_names) if name not in near]
        kind = "section" if has_only_sections(cls) else "key"
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


def has_only_sections(cls: type) -> bool:
    """Return whether a config class is a whole recipe, whose fields are the configs of the stages."""
    return all(dataclasses.is_dataclass(hint) for hint, _ in fields_of(cls).values())


def apply_override(values: Table, override: str, problems: list[str], *, in_sections: bool) -> None:
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
    """Parse a value of TOML; return None for other text, such as a bare word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def build(cls: Any, values: Any, prefix: str, problems: BuildProblems) -> Any:
    """Return a config of nested dicts; keys with a problem, which is added to `problems`, keep their default."""
    if not isinstance(values, Mapping):
        section = prefix.removesuffix(".")
        problems.append(message(section, values, f"must be a section, [{section}]"))
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
            problems.append(message(f"{prefix}{key}", value, must_be(value, hint)))
    return cls(**arguments)


def is_marked(marks: Sequence[Any], kind: type) -> bool:
    """Return whether one of the marks is of a kind."""
    return any(isinstance(mark, kind) for mark in marks)


def convert(
    value: Any, hint: Any, key: str = "", problems: BuildProblems | None = None, *, has_paths: bool = False
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
        return build(hint, value, f"{key}.", BuildProblems(hint) if problems is None else problems)
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


def _convert_text(text: Text, hint: Any, key: str, problems: BuildProblems | None, *, has_paths: bool) -> Any:
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


def message(key: str, value: Any, text: str) -> str:
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
