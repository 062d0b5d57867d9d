"""Turn a function into a command: its parameters are the flags, their descriptions in the docstring the help.

A description is `name: text` at the beginning of a docstring's line, or in SHARED.  A parameter without one, and
without marks in Annotated, is no flag.  Required parameters are positional arguments, except `out` and keyword-only
ones.  A parameter `config`, a dataclass, gives a flag per field.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from worldclip.cli.flags import METAVARS, Field, parse_flags
from worldclip.core.errors import UserError
from worldclip.core.execute import create_executor
from worldclip.core.local_path import url_problem
from worldclip.core.redact import redact

Flags = Any  # the parsed flags: an object with an attribute per flag

JsonFlag = Annotated[
    bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print the result as JSON.", help_behavior_hint="")
]
ExecutorFlag = Annotated[
    str,
    tyro.conf.arg(
        metavar="local|ray[:ADDRESS]",
        help="local (processes on this machine), ray (the cluster at RAY_ADDRESS, else one started on this machine) "
        "or ray:ADDRESS.",
    ),
]
WorkersFlag = Annotated[
    int | None,
    tyro.conf.arg(
        metavar="N", help="Number of shards processed in parallel (default: one per core).", help_behavior_hint=""
    ),
]
OwnWorkersFlag = Annotated[
    WorkersFlag,
    tyro.conf.arg(help="Number of shards processed in parallel (default: as many as memory has room for models)."),
]
ShardsFlag = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="I/N",
        help="Process only slice I of N of the shards (for job arrays). Rerun without --shards to finish.",
    ),
]
PushFlag = Annotated[str | None, tyro.conf.arg(metavar="OWNER/NAME")]
SetFlag = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")]

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
        fields = [item for item in self._fields(config) if item[0] not in {*without, *values}]
        flags = parse_flags(fields, summary, arguments, f"worldclip {words}")
        parameters = inspect.signature(self.function).parameters
        if problems := list(_url_problems(flags, [parameters[name] for name, *_ in fields if name in parameters])):
            raise UserError(problems)
        values |= {name: getattr(flags, name) for name, *_ in fields if name in parameters}
        if config is not None:
            values["config"] = with_tables(values["config"], config)
        return flags, values

    def _fields(self, config: Any) -> list[Field]:
        """Return the function's flags, then the shared ones, then those of its config."""
        hints = typing.get_type_hints(self.function, include_extras=True)
        descriptions = SHARED | described_parameters(self.function)
        parameters = inspect.signature(self.function).parameters
        has_config = config is not None or dataclasses.is_dataclass(hints.get("config"))
        fields: list[Field] = []
        for name, parameter in parameters.items():
            is_flag = name in descriptions or typing.get_origin(hints[name]) is Annotated
            if name == "executor" or (name == "config" and has_config) or not is_flag:
                continue
            is_required = parameter.default is parameter.empty
            is_positional = name in self.positional or (is_required and not _is_named(parameter))
            flag = flag_type(
                hints[name], name, descriptions.get(name), METAVARS.get(name, name.upper()) if is_positional else None
            )
            fields.append((name, flag, field() if is_required else field(default=parameter.default)))
        if "executor" in parameters:
            workers = OwnWorkersFlag if self.has_own_workers else WorkersFlag
            fields += [("executor", ExecutorFlag, field(default="local")), ("workers", workers, field(default=None))]
        fields.append(("json", JsonFlag, field(default=False)))
        if has_config:
            default = hints["config"]() if config is None else without_tables(config)
            fields.append(("config", Annotated[type(default), tyro.conf.arg(name="")], field(default=default)))
        return fields


def _is_named(parameter: inspect.Parameter) -> bool:
    """Return whether a required parameter is a flag with a name, not a positional argument."""
    return parameter.name == "out" or parameter.kind is parameter.KEYWORD_ONLY


def _url_problems(flags: Flags, parameters: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Yield what is wrong with each URL given for a path: of a flag that is parsed as one, or of one in WRITTEN."""
    for parameter in parameters:
        name, value = parameter.name, getattr(flags, parameter.name)
        setting = f"--{name.replace('_', '-')}" if _is_named(parameter) else METAVARS.get(name, name.upper())
        for path in value if isinstance(value, tuple) else (value,):
            is_local = isinstance(path, Path) or (name in WRITTEN and isinstance(path, str))
            if is_local and (problem := url_problem(path, setting)):
                yield problem


def without_tables(config: Any) -> Any:
    """Return a config with empty tables: of a table with items tyro makes a flag per item, and none for new items."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    changes = {name: without_tables(value) for name, value in values.items() if dataclasses.is_dataclass(value)}
    return dataclasses.replace(config, **changes, **{name: {} for name, value in values.items() if _is_table(value)})


def with_tables(flagged: Any, config: Any) -> Any:
    """Return the config `flagged` with the items of the tables of `config` that no flag has set."""
    changes: dict[str, Any] = {}
    for field_ in dataclasses.fields(config):
        value, flag = getattr(config, field_.name), getattr(flagged, field_.name)
        if dataclasses.is_dataclass(value):
            changes[field_.name] = with_tables(flag, value)
        elif _is_table(value) and isinstance(flag, dict):
            changes[field_.name] = {**value, **flag}
    return dataclasses.replace(flagged, **changes)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and not any(map(dataclasses.is_dataclass, value.values()))


def described_parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Return parameter -> its description, from lines `name: text` of the docstring."""
    parameters = inspect.signature(function).parameters
    head = r"^(\w+): (.*(?:\n(?!\w+: )(?!\n).*)*)"
    sections = re.findall(head, inspect.getdoc(function) or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in sections if name in parameters}


def flag_type(hint: Any, name: str, description: str | None = None, positional: str | None = None) -> Any:
    """Return the annotated type of a flag from a parameter's.

    positional: name of a positional argument.  A union with str, and Any, is given as text.
    """
    plain, is_optional, marks = _command_line_type(hint)
    options: dict[str, Any] = {}
    if description is not None:
        starts_with_word = re.match(r"[a-z]+ ", description)  # not with a value, as `exact: ...`
        options["help"] = description[0].upper() + description[1:] if starts_with_word else description
    is_stated = "(default: " in (description or "")
    if is_stated or is_optional or plain is bool or typing.get_origin(plain) is tuple:
        options["help_behavior_hint"] = ""  # a default that is nothing, or that the description states
    if positional is not None:
        marks.append(tyro.conf.Positional)
        options["metavar"] = f"{positional} [...]" if typing.get_origin(plain) is tuple else positional
    elif name == "out" and re.match("file|page", (description or "").lower()):
        options["metavar"] = "FILE"
    elif name in METAVARS and typing.get_origin(plain) is not Literal and plain is not int:
        options["metavar"] = f"{METAVARS[name]} ..." if typing.get_origin(plain) is tuple else METAVARS[name]
    if plain is bool:
        marks.append(tyro.conf.FlagCreatePairsOff)
    return Annotated[(plain | None if is_optional else plain, tyro.conf.arg(**options), *marks)]


def _command_line_type(hint: Any) -> tuple[Any, bool, list[Any]]:
    """Return the type that a flag is parsed as, whether it may be left out (None), and the marks of its annotation."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        plain, is_optional, _ = _command_line_type(arguments[0])
        return plain, is_optional, list(hint.__metadata__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        alternatives = [argument for argument in arguments if argument is not type(None)]
        plain = str if str in alternatives else alternatives[0]
        return plain, len(alternatives) < len(arguments), []
    if typing.get_origin(hint) is Sequence:
        element = str if arguments[0] is Any else arguments[0]
        return types.GenericAlias(tuple, (element, ...)), False, []
    return hint, False, []


def read_slice(text: str) -> slice:
    """Return I/N (--shards) as every N-th element of a list, from the I-th on.  Raises UserError."""
    index, _, number = text.partition("/")
    if not (index.isdigit() and number.isdigit() and 1 <= int(index) <= int(number)):
        raise UserError(f"--shards {text!r}: must be I/N, slice I of N with I between 1 and N, for example 3/16")
    return slice(int(index) - 1, None, int(number))


def note(text: str) -> None:
    """Print a line to standard error."""
    Console(stderr=True, highlight=False).print(escape(redact(text)), soft_wrap=True)
