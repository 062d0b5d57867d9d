"""Parse flags by tyro: names of values in the help, lists with commas or blanks, and problems in our own words."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import inspect
import io
import itertools
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest import mock

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from worldclip.core.errors import UserError
from worldclip.core.registry import ItemOf
from worldclip.core.settings import Place, section_name

Field = tuple[str, Any, Any]  # name, annotated type, dataclass field: what make_dataclass takes

METAVARS: Mapping[str, str] = {
    "arch": "ARCH",
    "checkpoint": "CHECKPOINT",
    "device": "DEVICE",
    "entry": "ENTRY",
    "files": "FILE",
    "find": "WORD",
    "html": "FILE",
    "images": "IMAGE",
    "key": "KEY",
    "labels": "LABEL",
    "lang": "LANG",
    "lang_exponent": "NUMBER",
    "langs": "LANG",
    "model": "MODEL",
    "out": "DIR",
    "pool": "POOL",
    "recipe": "RECIPE",
    "run": "RUN",
    "run_dir": "RUN",
    "runs": "RUN",
    "tail_fraction": "FRACTION",
    "templates": "TEMPLATE",
    "texts": "QUERY",
    "threshold": "N",
    "tokenizer": "TOKENIZER",
    "tokenizers": "TOKENIZER",
}
"""Name of a function's parameter -> what the help calls its value."""

LISTS_OF_NAMES = frozenset({
    "against_datasets", "allow_missing", "also", "codes", "columns", "datasets", "evaluate_datasets", "exclude",
    "formats", "freeze", "include", "langs", "languages", "of", "onnx_precisions", "profiles", "sources",
    "tail_fraction", "texts", "threshold",
})  # fmt: skip
"""Lists of codes and names: their flags take commas or blanks.  Texts and paths may hold commas themselves."""

_METAVARS = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}
_WORDS = {int: "a whole number", float: "a number"}
_REGISTRY = ConstructorRegistry()
_NONE = ("none", "None")
_BOOLS = {"true": True, "false": False}


def parse_flags(fields: Sequence[Field], summary: str, arguments: Sequence[str], prog: str) -> Any:
    """Return a dataclass with the fields.

    Prints the help and raises SystemExit for -h or --help.  Raises UserError with each wrong flag and its remedy.
    """
    with _REGISTRY:
        if {"-h", "--help"} & {*arguments}:  # alone: tyro omits positional arguments that have a value
            return tyro.cli(_make("Flags", _grouped(fields), summary), args=["--help"], prog=prog)
        flags_type = _make("Flags", fields, summary)
        single = {name for name, hint, _ in fields if typing.get_origin(typing.get_args(hint)[0]) is not tuple}
        flags, unknown = _parse(flags_type, split_lists(arguments, LISTS_OF_NAMES - single), prog)
    if unknown:
        raise UserError(_unknown_problems(unknown, flags, prog))
    return flags


def _make(name: str, fields: Sequence[Field], text: str) -> Any:
    made = dataclasses.make_dataclass(name, fields, frozen=True, kw_only=True)
    made.__doc__ = text
    return made


def _grouped(fields: Sequence[Field]) -> list[Field]:
    """Return the fields for the help: those of a config by topic, then its nested configs, each a group of its own."""
    configs = [default.default for *_, default in fields if dataclasses.is_dataclass(default.default)]
    grouped: list[Field] = [item for item in fields if item[2].default not in configs]
    for config in configs:
        values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        nested = {name for name, value in values.items() if dataclasses.is_dataclass(value)}
        plain = tuple(name for name in values if name not in nested)
        topics: Mapping[str, tuple[str, ...]] = getattr(config, "TOPICS", {section_name(type(config)): plain})
        for topic, names in topics.items():
            flags = _make(topic, _described(config, names), "")
            marks = (tyro.conf.arg(name=topic), tyro.conf.OmitArgPrefixes)
            grouped.append((f"of_{topic}", _marked(flags, *marks), dataclasses.field()))
        for name in sorted(nested, key=list(values).index):
            value = values[name]
            flags = _make(name, _described(value, [item.name for item in dataclasses.fields(value)]), value.__doc__)
            mark = tyro.conf.arg(name=name.replace("_", "-"))
            grouped.append((f"section_{name}", _marked(flags, mark), dataclasses.field()))
    return grouped


def _described(config: Any, names: Sequence[str]) -> list[Field]:
    """Return the fields of a config with their descriptions."""
    hints, texts = typing.get_type_hints(type(config), include_extras=True), _attribute_docstrings(type(config))
    values = {name: getattr(config, name) for name in names}
    return [(name, _documented(hints[name], texts[name], value), _default(value)) for name, value in values.items()]


def _marked(hint: Any, *marks: Any) -> Any:
    return Annotated[(hint, *marks)]


def _default(value: Any) -> Any:
    return dataclasses.field(default_factory=lambda: value)


def _documented(hint: Any, text: str, value: Any) -> Any:
    """Return the type of a config's field with its description, and PATH for its paths."""
    marks = getattr(hint, "__metadata__", ())
    plain = typing.get_args(hint)[0] if marks else hint
    options: dict[str, Any] = {"help": text}
    if value in (None, (), {}, ""):
        options["help_behavior_hint"] = ""  # the description says what an unset key means
    kinds = [kind for kind in (typing.get_args(plain) if _is_union(plain) else (plain,)) if kind is not type(None)]
    metavars = [_metavar(kind) or ("NAME VALUE ..." if typing.get_origin(kind) is dict else "") for kind in kinds]
    if items := next((mark for mark in marks if isinstance(mark, ItemOf)), None):
        choices = "{" + ",".join(items.names()) + "}"
        options["metavar"] = f"{choices} ..." if typing.get_origin(kinds[0]) is tuple else choices
    elif all(metavars):
        is_path = any(isinstance(mark, Place) for mark in marks)
        options["metavar"] = "|".join(metavars).replace("TEXT", "PATH" if is_path else "TEXT")
    return _marked(plain, tyro.conf.arg(**options))


def _attribute_docstrings(cls: type) -> dict[str, str]:
    """Return field -> the string that follows it in the source of a class."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    return {
        node.target.id: " ".join(after.value.value.split())
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def split_lists(arguments: Sequence[str], lists: Set[str] = LISTS_OF_NAMES) -> list[str]:
    """Return the arguments with `--langs en,de` as `--langs en de`, for each flag of `lists`."""
    words: list[str] = []
    in_list = False
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            in_list = flag.rpartition(".")[2].lstrip("-").replace("-", "_") in lists
            if not in_list or not equals:
                words.append(argument)
                continue
            words.append(flag)
            argument = value
        words += [name for name in argument.split(",") if name] if in_list else [argument]
    return words


def values_of(flag: str, arguments: Sequence[str]) -> list[str]:
    """Return the values of a repeatable flag, before the others are parsed."""
    values = []
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == flag:
            values.append(value if equals else following)
    return values


@_REGISTRY.primitive_rule
def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Return how texts, numbers, paths and choices are read, and lists and tables of them; None for another type."""
    options = typing.get_args(info.type) if _is_union(info.type) else (info.type,)
    kinds = [option for option in options if option is not type(None)]
    if tyro.conf.UseAppendAction in info.markers or not all(_metavar(kind) for kind in kinds):
        return None
    if kinds == [bool]:  # --name and --no-name; bool beside another type takes a value
        return None
    is_many = any(typing.get_origin(kind) in (tuple, dict) for kind in kinds)

    def read(words: list[str]) -> Any:
        if len(kinds) < len(options) and len(words) == 1 and words[0] in _NONE:
            return None
        problems = []
        for kind in kinds:
            try:
                return _read(words, kind)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError("; or ".join(problems))

    return PrimitiveConstructorSpec(
        nargs="*" if is_many else 1,
        metavar="|".join(map(_metavar, kinds)),
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=_to_words,
    )


def _metavar(kind: Any) -> str:
    """Return what the help calls the values of a type, "" for one that is not read here."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, arguments)) + "}"
    if kind is bool:
        return "{" + ",".join(_BOOLS) + "}"
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return f"{item} ..." if (item := _metavar(arguments[0])) else ""
    if origin is dict and arguments[1] in _METAVARS:
        return f"NAME {_METAVARS[arguments[1]]} ..."
    return _METAVARS.get(kind, "")


def _read(words: Sequence[str], kind: Any) -> Any:
    """Return the words of a flag as a value of a type.  Raises ValueError with the remedy."""
    if typing.get_origin(kind) is tuple:
        return tuple(_read_value(word, typing.get_args(kind)[0]) for word in words)
    if typing.get_origin(kind) is dict:
        return _read_table(words, typing.get_args(kind)[1])
    if len(words) != 1:
        raise ValueError(f"{' '.join(words)!r}: must be one value")
    return _read_value(words[0], kind)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _to_words(value: Any) -> list[str]:
    """Return how the help writes a default."""
    if value in (None, (), {}):
        return ["none"]
    if isinstance(value, dict):
        return [str(word) for item in value.items() for word in item]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(item) for item in value] if isinstance(value, tuple) else [str(value)]


def _read_table(words: Sequence[str], kind: Any) -> dict[str, Any]:
    """Return `NAME VALUE NAME VALUE` as a table.  Raises ValueError with the remedy."""
    if len(words) % 2:
        raise ValueError(f"{words[-1]!r}: a name without a value; give pairs, NAME VALUE")
    return {name: _read_value(word, kind) for name, word in zip(words[::2], words[1::2], strict=True)}


def _read_value(word: str, kind: Any) -> Any:
    """Return a word of the command line as str, int, float, Path or choice.  Raises ValueError with the remedy."""
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if word not in choices:
            raise ValueError(f"{word!r}: must be one of {', '.join(choices)}")
        return choices[word]
    if kind is bool:
        if word not in _BOOLS:
            raise ValueError(f"{word!r}: must be {' or '.join(_BOOLS)}")
        return _BOOLS[word]
    try:
        return kind(word)
    except ValueError as error:
        raise ValueError(f"{word!r}: must be {_WORDS[kind]}") from error


def _parse(flags_type: Any, arguments: Sequence[str], prog: str) -> tuple[Any, list[str]]:
    """Return the flags and the unknown words.  Raises UserError instead of tyro's boxed message and exit."""
    with contextlib.redirect_stderr(io.StringIO()) as box, _wide_terminal():
        try:
            flags, unknown = tyro.cli(flags_type, args=list(arguments), prog=prog, return_unknown_args=True)
            return flags, unknown
        except SystemExit:
            pass
    lines = [line.strip("│| ") for line in box.getvalue().splitlines() if line[:1] in ("│", "|")]
    raise UserError([f"{problem}; {prog} --help lists the flags" for problem in _boxed_problems(lines)])


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """Let tyro write each sentence on one line."""
    with mock.patch.dict(os.environ, {"COLUMNS": "100000"}):
        yield


def _boxed_problems(lines: Sequence[str]) -> list[str]:
    """Return the problems that tyro's box states."""
    missing = [
        f"{name} is missing: {description.removesuffix('(required)').rstrip(' .')}"
        for name, description in itertools.pairwise(lines)
        if description.endswith("(required)")
    ]
    first = lines[0] if lines else "wrong flags"
    if match := re.match(r"Error parsing (.+?): (no type matching|Failed to parse key-value)", first):
        return [f"{match[1]}: must be pairs, NAME VALUE"]
    if first.startswith("Error parsing "):
        return [re.sub(r"^Error parsing (.+?): ", r"\1 ", first)]
    if match := re.match(r"Missing value for argument '([^']+)'", first):
        return [f"{match[1]} has no value; give one"]
    return missing or [first]


def _unknown_problems(unknown: Sequence[str], flags: Any, prog: str) -> list[str]:
    """Return a problem for each unknown word, with the nearest flag."""
    known = list(_flag_names(flags, ""))
    problems = []
    for previous, word in itertools.pairwise(["", *unknown]):
        if previous.startswith("--") and not word.startswith("-"):
            continue  # the value of an unknown flag
        flag = word.partition("=")[0]
        near = difflib.get_close_matches(flag, known, n=1)
        kind = "flag" if word.startswith("-") else "argument"
        remedy = f"did you mean {near[0]}?" if near else f"{prog} --help lists the flags"
        problems.append(f"unknown {kind} {word!r}; {remedy}")
    return problems


def _flag_names(flags: Any, prefix: str) -> Iterator[str]:
    """Yield the flags of a dataclass and of those in it; the fields of `config` have no prefix."""
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        name = "" if not prefix and field.name == "config" else f"{prefix}{field.name.replace('_', '-')}."
        if dataclasses.is_dataclass(value):
            yield from _flag_names(value, name)
        else:
            yield f"--{name.removesuffix('.')}"
