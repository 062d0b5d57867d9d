"""Turn a function into a command: its parameters are the flags, their descriptions in the docstring the help.

A description is `name: text` at the beginning of a docstring's line, or in SHARED.  A parameter without one is no flag.
Required parameters are positional arguments, except `out` and keyword-only ones.  A parameter `config`, a dataclass,
gives a flag per field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape

from worldclip.cli.flags import REQUIRED, Flag, options_of, parse_flags
from worldclip.core.errors import UserError
from worldclip.core.execute import create_executor
from worldclip.core.local_path import url_problem
from worldclip.core.marks import Commas, Metavar, Repeated
from worldclip.core.redact import redact
from worldclip.core.settings import Place, section_name

Flags = Any  # the parsed flags: an object with an attribute per flag

ShardsFlag = Annotated[str | None, Metavar("I/N")]
PushFlag = Annotated[str | None, Metavar("OWNER/NAME")]
SetFlag = Annotated[Sequence[str], Metavar("KEY=VALUE"), Repeated()]

JSON = Flag(key="json", hint=bool, default=False, help="Print the result as JSON.")
EXECUTOR = Flag(
    key="executor",
    hint=str,
    default="local",
    metavar="local|ray[:ADDRESS]",
    help="local (processes on this machine), ray (the cluster at RAY_ADDRESS, else one started on this machine) or "
    "ray:ADDRESS.",
)
WORKERS = "Number of shards processed in parallel (default: {})."

WRITTEN = ("out", "folder", "html")
"""Parameters that are written to, and thus local paths, whatever their type."""

SHARED = {
    "model": "A run, a checkpoint, a folder of Hugging Face, open_clip, timm or ONNX, a checkpoint file, or a hub id.",
    "layout": "Layout to read from a folder that holds a model in two layouts.",
    "arch": "Architecture of a bare checkpoint file: a published name, or the path of an open_clip configuration.",
    "tokenizer": "Tokenizer (folder or hub id) for a checkpoint without one.",
    "precision": "Precision: fp32, fp16, bf16 in torch; of an ONNX folder as its files are named (int8, q4, ...).",
    "device": "auto, cpu, cuda, cuda:N or mps.",
    "allow_urls": "Accept URLs (http, https) as images.",
    "pool": "Folder of the pool, a run, or a .toml file with a [pool] section.",
    "shards": "Process only slice I of N of the shards (for job arrays). Rerun without --shards to finish.",
    "recipe": "Recipe (.toml), name of one that comes with worldclip (emoji), or folder of a run.",
    "push": "Hub repository to upload to; further formats go to OWNER/NAME-<format>.",
    "key": "Key of a pair: member, json:FIELD or a column (default: the run's or the .toml file's, else member).",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A function on the command line."""

    function: Callable[..., Any]
    to_text: Callable[[Any, Flags], str] | None = None
    """(result, flags) -> what is printed without --json.  None: the function returns (result, text)."""
    positional: tuple[str, ...] = ()
    """Optional parameters that are positional arguments nonetheless."""
    has_own_workers: bool = False
    """Whether the function chooses the number of workers if neither --executor nor --workers is given."""

    def run(
        self,
        words: str,
        summary: str,
        arguments: Sequence[str],
        *,
        without: Collection[str] = (),
        config: Any = None,
        **values: Any,
    ) -> int:
        """Parse the arguments, call the function, and print its result; return exit code 0.

        words: the command as typed.  without: parameters that are no flags here.  config: defaults of the flags that
        the parameter `config` makes.  values: further arguments of the function.  Raises UserError for wrong flags.
        """
        flags, values = self.parse(words, summary, arguments, without=without, config=config, **values)
        if "executor" in inspect.signature(self.function).parameters:
            is_default = (flags.executor, flags.workers) == ("local", None)
            is_own = self.has_own_workers and is_default
            values["executor"] = None if is_own else create_executor(flags.executor, flags.workers)
        result = self.function(**values)
        result, text = result if self.to_text is None else (result, self.to_text(result, flags))
        if flags.json and result is not None:
            print(redact(json.dumps(result, ensure_ascii=False, default=str)))
        elif text:
            print(redact(text))
        return 0

    def parse(
        self,
        words: str,
        summary: str,
        arguments: Sequence[str],
        *,
        without: Collection[str] = (),
        config: Any = None,
        **values: Any,
    ) -> tuple[Flags, dict[str, Any]]:
        """Return the flags, and the arguments of the function but its executor; parameters as of `run`."""
        config = self._default_config() if config is None else config
        flags = [flag for flag in self._flags(config) if flag.key not in {*without, *values}]
        groups = {} if config is None else _descriptions_of_groups(config)
        given = parse_flags(flags, summary, arguments, f"worldclip {words}", groups)
        parsed = {flag.key: given.get(flag.key, flag.default) for flag in flags}
        if problems := list(_url_problems(flags, parsed)):
            raise UserError(problems)
        parameters = inspect.signature(self.function).parameters
        values |= {name: value for name, value in parsed.items() if name in parameters and name != "executor"}
        if config is not None:
            for key, value in given.items():
                if key.startswith("config."):
                    config = with_value(config, key.split(".")[1:], value)
            values["config"] = config
        return SimpleNamespace(**parsed), values

    def _default_config(self) -> Any:
        """Return the defaults of the parameter `config`, if it is a config."""
        hint = typing.get_type_hints(self.function).get("config")
        return hint() if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None

    def _flags(self, config: Any) -> list[Flag]:
        """Return the function's flags, then the shared ones, then those of its config."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        descriptions = SHARED | described_parameters(self.function)
        parameters = inspect.signature(self.function).parameters
        flags = [
            parameter_flag(parameter, hints[name], descriptions[name], is_positional=name in self.positional)
            for name, parameter in parameters.items()
            if name in descriptions and not (name == "config" and config is not None)
        ]
        if "executor" in parameters:
            default = "as many as memory has room for models" if self.has_own_workers else "one per core"
            flags += [EXECUTOR, Flag(key="workers", hint=int | None, default=None, help=WORKERS.format(default))]
        flags.append(JSON)
        return flags if config is None else [*flags, *config_flags(config)]


def _is_named(parameter: inspect.Parameter) -> bool:
    """Return whether a required parameter is a flag with a name, not a positional argument."""
    return parameter.name == "out" or parameter.kind is parameter.KEYWORD_ONLY


def parameter_flag(parameter: inspect.Parameter, hint: Any, description: str, *, is_positional: bool) -> Flag:
    """Return the flag of a parameter; is_positional: whether it is a positional argument though it is optional."""
    marks = getattr(hint, "__metadata__", ())
    plain = plain_type(typing.get_args(hint)[0] if marks else hint)
    is_required = parameter.default is parameter.empty
    is_positional = is_positional or (is_required and not _is_named(parameter))
    flag = Flag(
        key=parameter.name,
        hint=plain,
        marks=marks,
        help=_capitalized(description),
        default=REQUIRED if is_required else parameter.default,
        is_positional=is_positional,
    )
    return dataclasses.replace(flag, metavar=_metavar(flag))


def _metavar(flag: Flag) -> str:
    """Return the name of a parameter's value: its mark, or the parameter's name in capitals.

    It is empty for numbers and paths with a flag, which are named by their type.
    """
    name = next((mark.name for mark in flag.marks if isinstance(mark, Metavar)), "")
    if flag.key == "out" and not name:
        name = "FILE" if re.match("file|page", flag.help.lower()) else "DIR"
    if flag.kinds[0] in (str, tuple[str, ...]) or flag.is_positional:
        name = name or flag.key.upper()
    if not name or not flag.is_many:
        return name
    return f"{name.removesuffix('S')} {'[...]' if flag.is_positional else '...'}"


def _capitalized(description: str) -> str:
    """Return a description with a capital, unless it begins with a value, as `exact: ...`."""
    return description[0].upper() + description[1:] if re.match(r"[a-z]+ ", description) else description


def config_flags(config: Any, prefix: str = "config", group: str = "") -> list[Flag]:
    """Return a flag per field of a config: those of a topic, then those of each config in it, as groups of the help."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    nested = {name: _configs_in(value) for name, value in values.items()}
    tables = [name for name, hint in typing.get_type_hints(type(config)).items() if _is_table_of_configs(hint)]
    plain = [name for name in values if not nested[name] and name not in tables]
    topics = {group: plain} if group else getattr(config, "TOPICS", {section_name(type(config)): plain})
    descriptions = attribute_docstrings(type(config))
    flags = [
        _field_flag(f"{prefix}.{name}", hints[name], descriptions[name], values[name], topic)
        for topic, names in topics.items()
        for name in names
    ]
    for name, configs in nested.items():
        for item, value in configs.items():
            flags += config_flags(value, f"{prefix}.{name}{item}", group or name.replace("_", "-"))
    return flags


def _is_table_of_configs(hint: Any) -> bool:
    """Return whether a field is a table of configs: flags change its items, but cannot add one."""
    return typing.get_origin(hint) is dict and dataclasses.is_dataclass(typing.get_args(hint)[1])


def _configs_in(value: Any) -> Mapping[str, Any]:
    """Return the configs of a field by the rest of their key: the value itself, or the items of a table."""
    if dataclasses.is_dataclass(value):
        return {"": value}
    items = value if isinstance(value, dict) else {}
    return {f".{name}": item for name, item in items.items() if dataclasses.is_dataclass(item)}


def _field_flag(key: str, hint: Any, description: str, value: Any, group: str) -> Flag:
    marks = getattr(hint, "__metadata__", ())
    plain = typing.get_args(hint)[0] if marks else hint
    if typing.get_origin(plain) is tuple and not any(isinstance(mark, Place) for mark in marks):
        marks = (*marks, Commas())  # lists of a config are codes and names, or paths
    return Flag(
        key=key,
        hint=plain,
        marks=marks,
        help=description,
        default=value,
        group=group,
        has_negation=plain is bool,
    )


def _descriptions_of_groups(config: Any) -> dict[str, str]:
    """Return the group of each config in a config -> its description."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    nested = {name: value for name, value in values.items() if dataclasses.is_dataclass(value)}
    return {name.replace("_", "-"): inspect.getdoc(value) or "" for name, value in nested.items()}


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


def _url_problems(flags: Sequence[Flag], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each URL given for a path: of a flag that is parsed as one, or of one in WRITTEN."""
    for flag in flags:
        value = values[flag.key]
        for path in value if isinstance(value, tuple) else (value,):
            is_local = isinstance(path, Path) or (flag.key in WRITTEN and isinstance(path, str))
            if is_local and (problem := url_problem(path, flag.word.partition(" ")[0])):
                yield problem


def described_parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Return parameter -> its description, from lines `name: text` of the docstring."""
    parameters = inspect.signature(function).parameters
    head = r"^(\w+): (.*(?:\n(?!\w+: )(?!\n).*)*)"
    sections = re.findall(head, inspect.getdoc(function) or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in sections if name in parameters}


def attribute_docstrings(cls: type) -> dict[str, str]:
    """Return field -> the string that follows it in the source of a class."""
    body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]).body
    return {
        node.target.id: " ".join(after.value.value.split())
        for node, after in itertools.pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }


def plain_type(hint: Any) -> Any:
    """Return the type that a parameter's flag is read as: text for a union with str and for Any, a tuple for a list."""
    options = options_of(hint)
    if str in options and len(options) > 1:
        return str | None if type(None) in options else str
    if typing.get_origin(hint) is Sequence:
        element = typing.get_args(hint)[0]
        return types.GenericAlias(tuple, (str if element is Any else plain_type(element), ...))
    return hint


def read_slice(text: str) -> slice:
    """Return I/N (--shards) as every N-th element of a list, from the I-th on.  Raises UserError."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shards {text!r}: must be I/N, slice I of N with I between 1 and N, for example 3/16")
    return slice(int(index) - 1, None, int(number))


def note(text: str) -> None:
    """Print a line to standard error."""
    Console(stderr=True, highlight=False).print(escape(redact(text)), soft_wrap=True)
