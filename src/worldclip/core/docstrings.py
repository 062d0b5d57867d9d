"""Docstrings of functions, variables and fields, read from the source: no module is imported for them."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import itertools
import textwrap
import typing
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder


@functools.cache
def module_docstrings(module: str) -> Mapping[str, str]:
    """Return name -> docstring of a module's functions and variables; none where its source is not Python."""
    try:
        return _docstrings_in(ast.parse(_source_of(module)).body)
    except (SyntaxError, ValueError, ImportError):  # ValueError: null bytes; ImportError: not UTF-8
        return {}


def field_docstrings(cls: type) -> dict[str, str]:
    """Return field -> its docstring in the source of a class, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    docstrings = _docstrings_in(typing.cast(ast.ClassDef, definition).body)
    return {name: " ".join(text.split()) for name, text in docstrings.items()}


def _docstrings_in(body: Sequence[ast.stmt]) -> dict[str, str]:
    """Return name -> docstring: of a function its own, of a variable the string that follows it."""
    docstrings = {}
    for node, after in itertools.pairwise([*body, ast.Pass()]):
        if isinstance(node, ast.FunctionDef):
            docstrings[node.name] = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(after.value, ast.Constant):
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
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return ""
    return spec.loader.get_source(module) or ""
