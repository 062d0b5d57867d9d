"""Run a command: its function's parameters are the flags, their types and marks say how each is read.

The help's words are lines `name: text` of the docstring, or of SHARED; they decide nothing.  A parameter that takes a
function is no flag.  Required parameters are positional arguments, except `out` and keyword-only ones.  A parameter
`config`, a dataclass, gives a flag per field, which is an override of its key as --set is.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from worldclip.cli.flags import REQUIRED, Flag, FlagUse, help_text, parse_flags, read_values
from worldclip.core.command import Command as Command  # plug-ins of 0.1.0 import it from here
from worldclip.core.command import Flags as Flags
from worldclip.core.docstrings import field_docstrings
from worldclip.core.errors import UserError
from worldclip.core.execute import create_executor
from worldclip.core.fields import fields_of, is_marked, options_of, section_name
from worldclip.core.local_path import url_problem
from worldclip.core.marks import Commas, File, Folder, Metavar, Place
from worldclip.core.printable import printable
from worldclip.core.redact import redact, redact_record
from worldclip.core.settings import load_config, to_dict

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

SHARED = {
    "model": "A run, a checkpoint, a folder of Hugging Face, open_clip or ONNX, a checkpoint file, or a hub id.",
    "arch": "Architecture of a bare checkpoint file: a published name, or the path of an open_clip configuration.",
    "tokenizer": "Tokenizer (folder or hub id) for a checkpoint without one.",
    "precision": "Precision: fp32, fp16, bf16 or auto (bf16 where the device has hardware for it) in torch; of an ONNX "
    "folder fp32, fp16 or int8.",
    "device": "auto, cpu, cuda, cuda:N or mps.",
    "pool": "Folder of the pool, a run, or a .toml file with a [pool] section.",
    "shards": "Process only slice I of N of the shards (for job arrays). Rerun without --shards to finish.",
    "recipe": "Recipe (.toml), name of one that comes with worldclip (emoji), or folder of a run.",
    "key": "Key of a pair: member, json:FIELD or a column (default: the run's or the .toml file's, else member).",
}


def run_command(command: Command, words: str, summary: str, arguments: Sequence[str], **options: Any) -> int:
    """Parse the arguments, call the function, and print its result; return exit code 0.

    words: the command as typed.  options: of `parse_command`.

    Raises UserError for wrong flags.
    """
    flags, values = parse_command(command, words, summary, arguments, **options)
    if "executor" in inspect.signature(command.function).parameters:
        is_default = flags.executor == "local" and flags.workers is None
        values["executor"] = None
        if not (command.has_own_workers and is_default):
            values["executor"] = create_executor(flags.executor, flags.workers)
    result = command.function(**values)
    if command.to_text is None:
        result, text = result
    else:
        text = command.to_text(result, flags)
    if flags.json and result is not None:
        record = redact_record(json.loads(json.dumps(result, default=str)))
        print(printable(json.dumps(record, ensure_ascii=False)))
    elif text:
        print(printable(redact(text)))
    return 0


def parse_command(
    command: Command,
    words: str,
    summary: str,
    arguments: Sequence[str],
    *,
    without: Collection[str] = (),
    config: Any = None,
    section: str = "",
    **values: Any,
) -> tuple[Flags, dict[str, Any]]:
    """Return the flags, and the arguments of the function but its executor.

    without: parameters that are no flags here.  config: defaults of the flags that the parameter `config` makes.
    section: of a stage, whose function takes `overrides` of the recipe in place of a config.
    values: further arguments of the function.

    Prints the help and raises SystemExit for -h or --help.
    """
    if config is None:
        hint = typing.get_type_hints(command.function).get("config")
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            config = hint()
    hidden = {*without, *values}
    if section:
        hidden.add("overrides")
    flags = [flag for flag in flags_of(command, config) if flag.key not in hidden]
    prog = f"worldclip {words}"
    if {"-h", "--help"} & {*arguments}:
        summary += examples_text(command.function) or examples_text(type(config))
        print(help_text(flags, summary, prog))
        raise SystemExit(0)
    uses = parse_flags(flags, arguments, prog, command.remedy_of)
    parsed = {flag.key: flag.default for flag in flags if not flag.is_key}
    parsed |= read_values(uses, f"; {prog} --help lists the flags")
    problems = list(_path_problems(flags, parsed))
    if problems:
        raise UserError(problems)
    for name in inspect.signature(command.function).parameters:
        if name in parsed and name != "executor":
            values[name] = parsed[name]
    if section:
        values["overrides"] = list(_overrides(uses, f"{section}."))
    elif config is not None:
        values["config"] = load_config(type(config), to_dict(config), list(_overrides(uses)))
    return SimpleNamespace(**parsed), values


def _overrides(uses: Sequence[FlagUse], prefix: str = "") -> Iterator[str]:
    """Yield each key that --set or the flag of a key sets, in their order: the last one wins."""
    for flag, name, words in uses:
        if flag.is_key:
            yield f"{prefix}{flag.override(name, words)}"
        elif prefix and flag.key == "set":
            yield words[0]


def flags_of(command: Command, config: Any) -> list[Flag]:
    """Return the flags of a command's function, then the shared ones, then those of its config."""
    hints = typing.get_type_hints(command.function, include_extras=True)
    descriptions = SHARED | described_parameters(command.function)
    parameters = inspect.signature(command.function).parameters
    flags = []
    for name, parameter in parameters.items():
        is_config = name == "config" and config is not None
        is_function = typing.get_origin(hints[name]) is Callable
        if name == "executor" or is_config or is_function:
            continue
        is_positional = name in command.positional
        default = parameter.default
        if default is parameter.empty:
            default = REQUIRED
            is_positional |= name != "out" and parameter.kind is not parameter.KEYWORD_ONLY
        hint = hints[name]
        marks = getattr(hint, "__metadata__", ())  # of Annotated
        if marks:
            hint = typing.get_args(hint)[0]
        text = descriptions.get(name, "")
        if re.match(r"[a-z]+ ", text):
            text = text[0].upper() + text[1:]
        hint = plain_type(hint)
        flag = Flag(key=name, hint=hint, marks=marks, help=text, default=default, is_positional=is_positional)
        flags.append(dataclasses.replace(flag, metavar=_metavar(flag)))
    if "executor" in parameters:
        usual = "as many as memory has room for models" if command.has_own_workers else "one per core"
        flags += [EXECUTOR, Flag(key="workers", hint=int | None, default=None, help=WORKERS.format(usual))]
    flags.append(JSON)
    if config is not None:
        flags += config_flags(config)
    return flags


def _metavar(flag: Flag) -> str:
    """Return the name of a parameter's value: by its marks, or the parameter's name in capitals.

    It is empty for numbers and paths with a flag, which are named by their type.
    """
    name = next((mark.name for mark in flag.marks if isinstance(mark, Metavar)), "")
    if not name and not flag.is_positional:
        if is_marked(flag.marks, Folder):
            name = "DIR"
        elif is_marked(flag.marks, File):
            name = "FILE"
    if flag.kinds[0] in (str, tuple[str, ...]) or flag.is_positional:
        name = name or flag.key.upper()
    if not name or not flag.is_many:
        return name
    dots = "[...]" if flag.is_positional else "..."
    return f"{name.removesuffix('S')} {dots}"


def config_flags(config: Any, prefix: str = "config", group: str = "") -> list[Flag]:
    """Return a flag per field of a config, then those of each config in it as groups of the help."""
    descriptions = field_docstrings(type(config))
    group = group or section_name(type(config))
    flags = []
    nested = []
    for field, (hint, marks) in fields_of(config.__class__).items():
        value = getattr(config, field)
        key = f"{prefix}.{field}"
        if dataclasses.is_dataclass(value):
            nested += config_flags(value, key, field.replace("_", "-"))
            continue
        if typing.get_origin(hint) is tuple and not is_marked(marks, Place):
            marks = (*marks, Commas())  # lists of a config are codes and names, or paths
        flags.append(Flag(key=key, hint=hint, marks=marks, help=descriptions[field], default=value, group=group))
    return [*flags, *nested]


def _path_problems(flags: Sequence[Flag], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield each URL given for a path, each folder for a file to write, and each file for a folder to write."""
    for flag in flags:
        value = values.get(flag.key)
        paths = value if isinstance(value, tuple) else (value,)
        is_folder = is_marked(flag.marks, Folder)
        is_file = is_marked(flag.marks, File)
        for path in paths:
            is_local = isinstance(path, Path) or (isinstance(path, str) and (is_folder or is_file))
            if not is_local:
                continue
            problem = url_problem(path, flag.word.partition(" ")[0])
            if problem:
                yield problem
            elif is_folder and not flag.is_positional and Path(path).is_file():
                yield f"{flag.word} {path} is a file; give the folder to write"
            elif is_file and Path(path).is_dir():
                yield f"{flag.word} {path} is a folder; give the file to write"


def described_parameters(function: Callable[..., Any]) -> dict[str, str]:
    """Return parameter -> its description, from lines `name: text` of the docstring."""
    parameters = inspect.signature(function).parameters
    head = r"^(\w+): (.*(?:\n(?!\w+: )(?!\n).*)*)"
    sections = re.findall(head, inspect.getdoc(function) or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in sections if name in parameters}


def examples_text(item: Any) -> str:
    """Return the examples in the docstring of a function or a config class as a paragraph of help, "" without any."""
    _, head, lines = (inspect.getdoc(item) or "").partition("\nExamples:\n")
    if not head:
        return ""
    return f"\n\nExamples:\n{lines.rstrip()}"


def plain_type(hint: Any) -> Any:
    """Return the type that a parameter's flag is read as: text for a union with str and for Any, a tuple for a list."""
    options = options_of(hint)
    if str in options and len(options) > 1:
        return str | None if type(None) in options else str
    for option in options:
        if typing.get_origin(option) is Sequence:
            element = typing.get_args(option)[0]
            element = str if element is Any else plain_type(element)
            return types.GenericAlias(tuple, (element, ...))
    return hint
