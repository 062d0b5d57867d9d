"""Every code block of the pages is valid: commands parse, Python names what exists, TOML is a recipe.

README.md, docs/7_export.md and docs/inference.md are also executed, in tests/export/test_export_docs.py.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import textwrap
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_docs import PRESENT, page_id, read

import worldclip
from worldclip.check.config import CheckConfig
from worldclip.cli import command, main
from worldclip.config import Recipe
from worldclip.contracts import layout
from worldclip.core.settings import _Loader

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (language, code) of each fenced block, and of each indented one by what it looks like."""
    text = read(page)
    yield from FENCED.findall(text)
    for block in INDENTED.findall(FENCED.sub("", text)):
        code = textwrap.dedent(block).strip("\n")
        first = code.lstrip().split("\n")[0]
        if first.startswith(("worldclip ", "torchrun ", "$ ", "pip ")):
            yield "bash", code
        elif re.match(r"\[[\w.]+\]", first):
            tables, command, rest = code.partition("\nworldclip ")
            yield "toml", tables
            yield "bash", command + rest
        elif first.startswith(("from ", "import ")):
            yield "python", code


def of_language(language: str) -> list[Any]:
    return [
        pytest.param(code, id=f"{page_id(page)}-{number}")
        for page in PRESENT
        for number, (name, code) in enumerate(blocks(page))
        if name == language
    ]


# commands


def commands(code: str) -> list[list[str]]:
    """Return the words after `worldclip` of each command of a block, variables of the shell as they are."""
    lines = code.replace("\\\n", " ").splitlines()
    calls = [re.match(r"\s*(?:srun |torchrun .*-m |\w+=\S* )*worldclip (.*)", line) for line in lines]
    found = [shlex.split(call[1], comments=True) for call in calls if call]
    return [words[: next((i for i, word in enumerate(words) if word in "|><&&;"), len(words))] for words in found]


@pytest.mark.parametrize("code", of_language("bash") + of_language("sh"))
def test_commands_parse(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def parse(*arguments: Any, name: str = "", **values: Any) -> int:
        command.parse_command(*arguments, **values)
        return 0

    monkeypatch.setattr(command, "run_command", parse)
    monkeypatch.setattr("worldclip.config.load_config", lambda *arguments, **options: Recipe())
    monkeypatch.setattr(layout, "is_run", lambda path: str(path).startswith(("runs/", "RUN")) and path.name != "export")
    for words in commands(code):
        words = [{"MODEL": "some/model"}.get(word, "0" if word.startswith("$") else word) for word in words]
        try:
            status: Any = main(words)
        except SystemExit as end:
            status = end.code
        assert status == 0, f"worldclip {shlex.join(words)}\n{capsys.readouterr().err}"


# Python


@pytest.mark.parametrize("code", of_language("python"))
def test_python_calls_what_exists(code: str) -> None:
    Names(code).check()


class Names:
    """The names of a block that are worldclip's, and the classes of the objects that they are bound to."""

    def __init__(self, code: str) -> None:
        self.tree = ast.parse(code)
        self.bound: dict[str, Any] = {}
        self.instances: dict[str, type] = {}

    def check(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                ours = [alias.name for alias in node.names if alias.name.startswith("worldclip")]
                self.bound |= {name.split(".")[0]: importlib.import_module(name.split(".")[0]) for name in ours}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("worldclip"):
                for alias in node.names:
                    module = importlib.import_module(node.module or "")
                    self.bound[alias.asname or alias.name] = attribute(module, alias.name)
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and isinstance(node.targets[0], ast.Name)
            ):
                made = self.class_of(node.value)
                if made is not None:
                    self.instances[node.targets[0].id] = made
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (function := self.resolve(node.func)) is not None:
                check_call(function, node, is_method=self.is_method(node.func))

    def resolve(self, node: ast.expr) -> Any:
        """Return what a name stands for; None where it is not worldclip's."""
        if isinstance(node, ast.Name):
            return self.bound.get(node.id, self.instances.get(node.id))
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            return None if owner is None else attribute(owner, node.attr)
        return self.class_of(node) if isinstance(node, ast.Call) else None

    def class_of(self, call: ast.Call) -> type | None:
        function = self.resolve(call.func)
        if inspect.isclass(function):
            return function
        made = None if function is None else hints_of(function).get("return")
        return made if inspect.isclass(made) and made.__module__.startswith("worldclip") else None

    def is_method(self, node: ast.expr) -> bool:
        """Return whether a call is of an object, whose method has self as its first parameter."""
        if not isinstance(node, ast.Attribute):
            return False
        is_object = isinstance(node.value, ast.Call) or (
            isinstance(node.value, ast.Name) and node.value.id in self.instances
        )
        return is_object


def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations; those of a module that imports their classes for type checking only, as text."""
    try:
        return typing.get_type_hints(function)
    except NameError:
        return {name: Path if text == "Path" else text for name, text in inspect.get_annotations(function).items()}


def attribute(owner: Any, name: str) -> Any:
    assert hasattr(owner, name), f"{owner} has no {name}"
    return getattr(owner, name)


def check_call(function: Any, call: ast.Call, *, is_method: bool) -> None:
    """Assert that a call fits the signature, and that no text is passed for a path."""
    if any(isinstance(argument, ast.Starred) for argument in call.args) or not callable(function):
        return
    signature = inspect.signature(function)
    values = [object()] * is_method + list(call.args)
    bound = signature.bind(*values, **{word.arg: word.value for word in call.keywords if word.arg})
    hints = hints_of(function.__init__ if inspect.isclass(function) else function)
    for name, value in bound.arguments.items():
        is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        assert not (is_text and hints.get(name) is Path), f"{function.__name__}({name}=...) takes a Path, not a text"


@pytest.mark.parametrize("page", PRESENT, ids=page_id)
def test_calls_in_inline_code_exist(page: Path) -> None:
    for name in re.findall(r"`(worldclip(?:\.\w+)+)\(", read(page)):
        owner, *rest = name.split(".")
        value: Any = importlib.import_module(owner)
        for part in rest:
            value = attribute(value, part)
        assert callable(value), name


# TOML


@pytest.mark.parametrize("code", of_language("toml"))
def test_tables_are_of_a_recipe_or_of_the_rules_of_a_check(code: str) -> None:
    tables = tomllib.loads(code)
    if "project" in tables:  # the pyproject.toml of a package that plugs in
        ours = (Path(worldclip.__file__).parent / "entry_points.txt").read_text(encoding="utf-8")
        assert all(f"[{group}]" in ours for group in tables["project"]["entry-points"])
        return
    problems = []
    for config in (Recipe, CheckConfig):
        loader = _Loader()
        loader.build(config, tables, "")
        problems.append(loader.problems)
    assert [] in problems, problems[0]
