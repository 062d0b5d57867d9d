"""Functions without types are kernels: numba takes the types of the call, and mypy checks all others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import worldclip

SRC = Path(worldclip.__file__).parent
KERNELS = {"compiled", "inlined", "inner", "intrinsic", "kernel", "njit"}  # decorators
OF_CODE_GENERATORS = SRC / "kernels" / "llvm.py"  # what numba calls while it compiles


def untyped_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [argument.annotation for argument in arguments if argument.arg not in ("self", "cls")]
            if None in (*annotations, node.returns):
                yield node


def is_kernel(function: ast.FunctionDef) -> bool:
    names = [node.id for mark in function.decorator_list for node in ast.walk(mark) if isinstance(node, ast.Name)]
    return not KERNELS.isdisjoint(names)


def test_functions_without_types_are_kernels():
    untyped = [
        f"{path.relative_to(SRC)}:{function.lineno} {function.name}"
        for path in sorted(SRC.rglob("*.py"))
        if path != OF_CODE_GENERATORS
        for function in untyped_functions(ast.parse(path.read_text(encoding="utf-8")))
        if not is_kernel(function)
    ]
    assert untyped == []


def test_plain_function_without_types_is_found():
    tree = ast.parse(
        "@compiled\ndef kernel(a): ...\ndef plain(a): ...\ndef typed(a: int) -> int: ...\ndef half(a: int): ..."
    )
    assert [function.name for function in untyped_functions(tree) if not is_kernel(function)] == ["plain", "half"]
