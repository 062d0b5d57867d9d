"""Write the reference pages of the site: commands from their help, the Python API, the datasets of the catalog.

docs/build_site.py calls it; the pages are not committed, so that none can be out of date.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import worldclip
from worldclip.cli import main
from worldclip.cli.overview import sections
from worldclip.evaluate.catalog import CATALOG
from worldclip.model.inference import Clip
from worldclip.tools.fetch_dataset import describe

COMMANDS_HEAD = """# Commands

After this page you know every command and flag. It is written from `worldclip COMMAND --help` of this version.
[index.md](index.md) says where to begin.
"""
API_HEAD = """# Python API

After this page you know every public name. It is written from the docstrings of this version. `worldclip.run`, `load`,
`embed` and `search` are the four calls; the rest is what the stages offer to other programs. A mistake of the user is a
`worldclip.core.errors.UserError`, a `ValueError` that names all problems.
"""
STAGES = ("pool", "check", "metadata", "match", "balance", "curate", "export")  # with names for others
LINE = 88  # characters of a signature on one line


# commands


def command_names() -> dict[str, list[str]]:
    """Return title of a group -> its commands, in the order of `worldclip --help`."""
    return {title: list(summaries) for title, summaries in sections().items()}


def help_of(command: str) -> str:
    """Return what `worldclip COMMAND --help` prints, on lines of any length.  Raises RuntimeError if it prints none."""
    output = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": "10000"}), contextlib.redirect_stdout(output):
        code = exit_code([*command.split(), "--help"])
    if code != 0:
        raise RuntimeError(f"worldclip {command} --help ended with exit code {code}")
    return output.getvalue()


def exit_code(arguments: list[str]) -> Any:
    try:
        return main(arguments)
    except SystemExit as end:  # after the help
        return end.code or 0


def read_help(text: str) -> tuple[str, str, dict[str, list[tuple[str, str]]]]:
    """Return usage, summary, and title of each group -> (flag with its value, description)."""
    head, *groups = re.split(r"^((?:\S.* )?(?:arguments|options)):\n", text, flags=re.MULTILINE)
    usage, summary, *_ = head.removeprefix("usage: ").split("\n\n")
    flags = {
        title: list(flags_of(body.strip("\n").split("\n\n")[-1].splitlines()))  # a description stands above the flags
        for title, body in zip(groups[::2], groups[1::2], strict=True)
    }
    return usage.strip(), summary.strip(), flags


def flags_of(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (flag with its value, description) of the lines of a group; a long flag has its description below it."""
    flag = ""
    for line in lines:
        indented, _, text = line.strip().partition("  ")
        if line.startswith("   "):
            yield flag, line.strip()
        elif text:
            yield indented, text.strip()
        else:
            flag = indented


def commands_page() -> str:
    """Return the page of all commands, in the order of `worldclip --help`."""
    parts = [COMMANDS_HEAD]
    for title, names in command_names().items():
        parts.append(f"## {title.split(' (')[0]}\n")
        parts += [command_section(name) for name in names]
    return "\n".join(parts)


def command_section(name: str) -> str:
    """Return what a command does, its usage, and a list of flags per group of its help."""
    usage, summary, groups = read_help(help_of(name))
    lines = [f"### {name}\n", escape(summary), "", "```text", usage, "```", ""]
    for title, flags in groups.items():
        flags = [item for item in flags if not item[0].startswith("-h,")]
        if flags:
            lines += [f"**{title}**", "", *(f"- `{flag}`: {escape(text)}" for flag, text in flags), ""]
    return "\n".join(lines)


# Python


def api_page() -> str:
    """Return the page of all public names: the calls of worldclip, the class Clip, and `__all__` of each stage."""
    parts = [API_HEAD, "## The four calls\n"]
    parts += [
        function_section(f"worldclip.{name}", getattr(worldclip, name)) for name in ("run", "load", "embed", "search")
    ]
    parts += ["## The model that `load` returns\n", class_section("worldclip.model.inference.Clip", Clip)]
    for stage in STAGES:
        module = importlib.import_module(f"worldclip.{stage}")
        parts += [f"## worldclip.{stage}\n", prose(module)]
        for name in module.__all__:
            parts.append(section_of(f"worldclip.{stage}.{name}", getattr(module, name)))
    return "\n".join(parts)


def section_of(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return class_section(name, value)
    if callable(value):
        return function_section(name, value)
    return f"### {name}\n\n`{value!r}`\n"


def class_section(name: str, value: type) -> str:
    """Return a class with its public methods and properties; of a config the keys are flags, in commands.md."""
    if name.endswith("Config"):
        return f"### {name}\n\n{prose(value)}\nIts fields are the flags of the [command](commands.md).\n"
    parts = [f"### {name}\n", signature_block(name, value), prose(value)]
    parts += [f"#### {name.rpartition('.')[2]}.{method}\n\n{text}" for method, text in documented_methods(value)]
    return "\n".join(parts)


def documented_methods(value: type) -> Iterator[tuple[str, str]]:
    """Yield (name, signature and docstring) of each public method and property that has a docstring."""
    for name, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        signature = "" if isinstance(member, property) else signature_block(name, function)
        yield name, f"{signature}\n{prose(function)}"


def function_section(name: str, function: Callable[..., Any]) -> str:
    return f"### {name}\n\n{signature_block(name, function)}\n{prose(function)}"


def signature_block(name: str, function: Callable[..., Any]) -> str:
    """Return the signature as a block of code, one parameter per line if it is long."""
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name not in ("self", "cls")]
    returns = "" if inspect.isclass(function) else f" -> {plain(signature.return_annotation)}"
    words = [parameter_text(parameter) for parameter in parameters]
    keyword_only = [number for number, item in enumerate(parameters) if item.kind is item.KEYWORD_ONLY]
    if keyword_only and not any(item.kind is item.VAR_POSITIONAL for item in parameters):
        words.insert(keyword_only[0], "*")
    line = f"{name}({', '.join(words)}){returns}"
    if len(line) > LINE:
        line = "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){returns}"])
    return f"```python\n{line}\n```\n"


def parameter_text(parameter: inspect.Parameter) -> str:
    stars: dict[Any, str] = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    text = f"{stars.get(parameter.kind, '')}{parameter.name}"
    if parameter.annotation is not parameter.empty:
        text += f": {plain(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    default = repr(parameter.default)
    return f"{text} = {'...' if default.startswith('<') else default}"


def plain(annotation: Any) -> str:
    """Return an annotation as it stands in the source; None for what is not annotated."""
    if annotation is inspect.Parameter.empty:
        return "None"
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def prose(value: Any) -> str:
    """Return a docstring as Markdown: a list item per described parameter, markup characters escaped."""
    text = inspect.getdoc(value) or ""
    if callable(value):
        names = "|".join(inspect.signature(value).parameters)
        text = re.sub(rf"(?:^|(?<=  ))({names}): ", r"\n\n\1: ", text, flags=re.MULTILINE)
        text = re.sub(r"(?:^|(?<=  ))Raises ", r"\n\nRaises ", text, flags=re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(paragraph_text(paragraph) for paragraph in paragraphs if paragraph.strip()) + "\n"


def paragraph_text(paragraph: str) -> str:
    if paragraph.startswith("    "):
        return paragraph
    if paragraph.startswith("Examples:\n"):
        return paragraph.replace("\n", "\n\n", 1)  # a block of code
    if match := re.match(r"(\w+): (.*)", paragraph, re.DOTALL):
        return f"- `{match[1]}`: {escape(' '.join(match[2].split()))}"
    return escape(paragraph.strip())


def escape(text: str) -> str:
    """Escape what Markdown would take as markup, outside of inline code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else escape_plain(piece) for piece in pieces)


def escape_plain(text: str) -> str:
    return re.sub(r"([\\*_\[\]])", r"\\\1", text).replace("<", "&lt;")


def datasets_page() -> str:
    """Return what `worldclip fetch dataset NAME --show` prints of each dataset of the catalog."""
    parts = [f"## {info.title}: `{name}`\n\n```text\n{describe(name)}\n```" for name, info in CATALOG.items()]
    return "\n\n".join(["# Datasets", *parts]) + "\n"


def write_pages(folder: Path) -> None:
    """Write commands.md, api.md and datasets.md into a folder."""
    (folder / "commands.md").write_text(commands_page(), encoding="utf-8")
    (folder / "api.md").write_text(api_page(), encoding="utf-8")
    (folder / "datasets.md").write_text(datasets_page(), encoding="utf-8")
