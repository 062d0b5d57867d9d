"""Configs: TOML in and out, overrides, one report of everything wrong, and which keys decide which stage's output.

A config is a frozen dataclass beside the code that uses it.  A field decides the output of its own stage, unless it
says otherwise: `Annotated[int, Decides()]` decides no output, `Annotated[str, Decides("pool", "match")]` that of these
stages.  Imports the standard library only, so that a command's help stays light.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worldclip.core.errors import UserError


@dataclass(frozen=True)
class Decides:
    """Mark of a config field: the stages whose output it decides.  Without it a field decides its own stage's."""

    stages: tuple[str, ...]

    def __init__(self, *stages: str) -> None:
        object.__setattr__(self, "stages", stages)


def section_name(cls: type) -> str:
    """Return the section of the recipe that a config class describes: BalanceConfig -> balance."""
    return cls.__name__.removesuffix("Config").lower()


def deciding(config: Any, stage: str) -> dict[str, Any]:
    """Return the fields of a section that decide the output of `stage`, as `to_dict` writes them."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    own = section_name(type(config))
    values = to_dict(config)
    return {name: values[name] for name in values if stage in _stages_of(hints[name], own)}


def _stages_of(hint: Any, own: str) -> tuple[str, ...]:
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Decides):
            return mark.stages
    return (own,)


def load_config(cls: type, source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """Any config class (a dataclass with problems()) as load_recipe loads a Recipe."""
    values = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    problems: list[str] = []
    in_sections = all(dataclasses.is_dataclass(hint) for hint in typing.get_type_hints(cls).values())
    for override in overrides:
        _apply_override(values, override, problems, in_sections)
    config = _build(cls, values, "", problems)
    if config is not None:
        problems += config.problems()
    if problems:
        raise UserError(problems)
    return config


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, or of a run's recipe.toml.  Raises UserError where there is none."""
    file = path / "recipe.toml" if path.is_dir() else path
    if not file.exists():
        what = (
            "holds no recipe.toml; give a recipe (.toml) or the folder of a run"
            if path.is_dir()
            else "does not exist; give a recipe (.toml) or the folder of a run"
        )
        raise UserError(f"{path} {what}")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not TOML: {error}") from error


def _apply_override(values: dict[str, Any], override: str, problems: list[str], in_sections: bool) -> None:
    name, separator, text = override.partition("=")
    if not separator or (in_sections and "." not in name):
        problems.append(f"--set {override!r}: expected section.key=value, for example balance.tail_fraction=0.06")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string: --set match.profile=unicode
    *sections, key = name.strip().split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            problems.append(f"--set {override!r}: {section} is a value, not a section")
            return
    if value == "none":
        place.pop(key, None)  # TOML has no null: `none` takes a key back to its default
    else:
        place[key] = value


def _build(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    """A config dataclass from nested dicts; problems are gathered and bad keys left at their defaults."""
    where = prefix.rstrip(".") or f"the {cls.__name__.removesuffix('Config').lower()}"
    if not isinstance(values, Mapping):
        problems.append(f"{where} is {values!r}; it is a section of keys")
        return None
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            meant = f"did you mean {prefix}{near[0]}?" if near else f"{where} has: {', '.join(hints)}"
            problems.append(f"{prefix}{key} is not a key of {where}; {meant}")
            continue
        hint = hints[key]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            arguments[key] = _build(hint, value, f"{prefix}{key}.", problems) or hint()
            continue
        if isinstance(value, Mapping) and (item := _item_config(hint)) is not None:
            arguments[key] = {
                name: _build(item, of, f"{prefix}{key}.{name}.", problems) or item() for name, of in value.items()
            }
            continue
        try:
            arguments[key] = _convert(value, hint)
        except TypeError:
            problems.append(f"{prefix}{key} is {value!r}; it must be {_describe(hint)}")
    return cls(**arguments)


def _item_config(hint: Any) -> type | None:
    """The config class of a table of named configs, dict[str, SomeConfig]; None for other types."""
    item = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
    return item if isinstance(item, type) and dataclasses.is_dataclass(item) else None


def _convert(value: Any, hint: Any) -> Any:
    """`value` as `hint` says (str, int, float, bool, Literal, union, tuple[X, ...], dict[str, X]); TypeError if not."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _convert(value, option)
            except TypeError:
                continue
        raise TypeError(value)
    if origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
        raise TypeError(value)
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, args[0]) for item in value)
        raise TypeError(value)
    if origin is dict:
        if isinstance(value, Mapping):
            return {str(key): _convert(item, args[1]) for key, item in value.items()}
        raise TypeError(value)
    if hint is type(None):
        if value is None:
            return None
        raise TypeError(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError(value)


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", type(None): "unset"}


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in args if option is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in args)
    if origin is tuple:
        return f"a list, each {_describe(args[0])}"
    if origin is dict:
        return f"a table of name = {_describe(args[1])}"
    return _WORDS.get(hint, str(hint))


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dicts of a config, JSON- and TOML-able: None left out, tuples as lists."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            found[item.name] = to_dict(value)
        elif isinstance(value, dict):
            found[item.name] = {k: to_dict(v) if dataclasses.is_dataclass(v) else _plain(v) for k, v in value.items()}
        elif isinstance(value, tuple):
            found[item.name] = _plain(value)
        elif value is not None:
            found[item.name] = value
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def to_toml(config: Any) -> str:
    """The whole recipe with its defaults, loadable as it is."""
    import tomli_w

    return tomli_w.dumps(to_dict(config))
