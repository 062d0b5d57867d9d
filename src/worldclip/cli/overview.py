"""The overview that `worldclip --help` prints, and the nearest known name of an unknown command.

Commands are items of a registry (core/registry.py), the stages are those of recipe.steps().  Summaries are read from
the source of a command's module, which is not imported.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib.util
import inspect
import itertools
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NoReturn

from worldclip.core.errors import UserError
from worldclip.core.registry import Origin, Registry
from worldclip.recipe import stage_names, steps

COMMANDS = Registry("command", "worldclip.commands")
ANY_MODEL = " MODEL"
"""End of the name of a command that takes any model in place of a recipe or a run."""
_OWN_MODULES = "worldclip.cli."


def summary_of(name: str) -> str:
    """Return what a command does, in one line: the first of the docstring of its function or variable."""
    if problem := COMMANDS.problem(name):
        return problem
    origin = COMMANDS.origins()[name][0]
    return _first_line(_docstrings(origin.module).get(origin.attribute, f"({origin.module} has no docstring for it)"))


def _section_of(origin: Origin) -> str:
    """Return the title of a command's section: the docstring of a module of worldclip.cli, else `Plug-ins`."""
    return _first_line(_docstrings(origin.module)[""]) if origin.module.startswith(_OWN_MODULES) else "Plug-ins"


def _first_line(docstring: str) -> str:
    return docstring.partition("\n")[0].removesuffix(".")


@functools.cache
def _docstrings(module: str) -> Mapping[str, str]:
    """Return name -> docstring of a module's functions and variables, and its own as the name ""."""
    tree = ast.parse(_source_of(module))
    docstrings = {"": ast.get_docstring(tree) or ""}
    for node, after in itertools.pairwise([*tree.body, ast.Pass()]):
        if isinstance(node, ast.FunctionDef):
            docstrings[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            docstrings |= dict.fromkeys(names, inspect.cleandoc(str(after.value.value)))
    return docstrings


def _source_of(module: str) -> str:
    """Return the source of a module, "" where there is none.  Imports neither it nor the packages around it."""
    parts = module.split(".")
    spec = importlib.util.find_spec(parts[0])
    for end in range(2, len(parts) + 1):
        if spec is None:
            return ""
        spec = PathFinder.find_spec(".".join(parts[:end]), spec.submodule_search_locations)
    loader = None if spec is None else spec.loader
    return (loader.get_source(module) or "") if isinstance(loader, InspectLoader) else ""


def sections() -> dict[str, dict[str, str]]:
    """Return title of a section -> command -> what it does; the stages stand in the first section."""
    by_title: dict[str, dict[str, str]] = {}
    for name, origins in COMMANDS.origins().items():
        by_title.setdefault(_section_of(origins[0]), {})[name] = summary_of(name)
    recipe = next(iter(by_title.values()))
    recipe.update((step.stage, step.help) for step in steps())
    return by_title


def to_text() -> str:
    """Return the overview: all commands by section, in aligned columns."""
    rows = sections()
    width = max(len(name) for summaries in rows.values() for name in summaries)
    lines = [
        "usage: worldclip COMMAND ...",
        "",
        "worldclip COMMAND --help lists the flags of a command.",
        "--quiet shows errors alone, --verbose each shard too; a run keeps all lines in RUN/log.txt.",
    ]
    for title, summaries in rows.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([*lines, "", f"  {'--version':<{width}}  Print versions, extras and device"])


def see_also(stage: str) -> str:
    """Return a paragraph of help with the commands that begin with a stage's name, "" if there are none."""
    lines = commands_of(stage)
    return (
        "\n\n" + "\n".join([f"Commands that begin with {stage} (worldclip COMMAND --help):", *lines]) if lines else ""
    )


def commands_of(first: str) -> list[str]:
    """Return a line per command that begins with the word `first`, in aligned columns."""
    rows = {
        f"{name}{' --out DIR' if name.endswith(ANY_MODEL) else ''}": summary_of(name)
        for name in COMMANDS.names()
        if name.startswith(f"{first} ")
    }
    width = max(map(len, rows), default=0)
    return [f"  {name:<{width}}  {summary}" for name, summary in rows.items()]


def refuse_misspelt(stage: str, rest: Sequence[str]) -> None:
    """Raise UserError where `worldclip pool chek` means the command `pool check`, not the stage on a recipe."""
    words = [name.removeprefix(f"{stage} ") for name in _names() if name.startswith(f"{stage} ")]
    if not rest or rest[0] in words or Path(rest[0]).exists():
        return
    if near := difflib.get_close_matches(rest[0], words, 1):
        raise UserError(f"unknown command {stage} {rest[0]}; did you mean {stage} {near[0]}?")


def refuse_unknown(arguments: Sequence[str]) -> NoReturn:
    """Raise UserError with the nearest command, of two words or of one."""
    first = arguments[0]
    if second_words := [name.partition(" ")[2] for name in _names() if name.startswith(f"{first} ")]:
        name = " ".join(arguments[:2])
        near = difflib.get_close_matches(name, _names(), 1)
        remedy = f"did you mean {near[0]}?" if near and len(arguments) > 1 else f"{first} has {', '.join(second_words)}"
        raise UserError(f"unknown command {name}; {remedy}")
    for name in (" ".join(arguments[:2]), first):
        if near := difflib.get_close_matches(name, _names(), 1):
            raise UserError(f"unknown command {name}; did you mean {near[0]}?")
    raise UserError(f"unknown command {first}; worldclip --help lists all commands")


def _names() -> list[str]:
    return [*stage_names(), *(name for name in COMMANDS.names() if not name.endswith(ANY_MODEL))]
