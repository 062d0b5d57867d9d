"""Imports point down the house, lazy and type-checking ones included, and packages make no circle (docs/design.md).

Functions without types are kernels: numba takes the types of the call, and mypy checks all others.  `import worldclip`
is light; tests/test_mistakes.py runs curation where no extra is installed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import worldclip
from programs import python
from worldclip import curate

SRC = Path(worldclip.__file__).parent

# Floors from the top down.  A package imports from lower floors only, and from what BESIDE allows on its own floor.
FLOORS = (
    ("__main__",),
    ("plugins",),
    ("cli",),
    ("__init__",),  # the public names
    ("recipe",),
    ("config",),
    ("tools",),
    ("check",),
    ("export", "train"),
    ("evaluate",),
    ("curate",),
    ("balance", "match", "metadata"),
    ("pool",),
    ("report",),
    ("model",),
    ("language",),
    ("contracts",),
    ("core",),
    ("kernels",),
)
STAGES = {"pool", "metadata", "match", "balance", "curate", "train", "evaluate", "export"}
# Stages meet on disk.  Beyond a pool's public names and configs, one stage may import this of another.  The loader
# takes the keep decision from curate's public names, so that online and offline curation are one.
BETWEEN_STAGES = {
    "metadata": {"match.matcher"},
    "train": {"evaluate", *(f"curate.{name}" for name in curate.__all__)},
}


def all_imports(path: Path) -> Iterator[str]:
    """Yield the names that a file imports, of any package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path: Path) -> Iterator[str]:
    """Yield the worldclip modules that a file imports, below `worldclip.`; names are resolved to modules.

    The package itself, and a name of it that is no module (`__version__`, `run`), is `__init__`.
    """
    for name in all_imports(path):
        package, *parts = name.split(".")
        if package == "worldclip":
            yield ".".join(parts) if is_module(*parts[:1]) else "__init__"


def is_module(name: str = "") -> bool:
    return bool(name) and ((SRC / name).is_dir() or (SRC / f"{name}.py").is_file())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts)


def arrows() -> list[tuple[str, str]]:
    """(importing module, imported name) of every import between top-level packages."""
    found = []
    for path in sorted(SRC.rglob("*.py")):
        module = module_of(path)
        found += [(module, name) for name in imports(path) if name.split(".")[0] != module.split(".")[0]]
    return found


def test_imports_point_down():
    floor = {package: number for number, packages in enumerate(FLOORS) for package in packages}
    up = [
        f"{module} -> {name}" for module, name in arrows() if floor[module.split(".")[0]] >= floor[name.split(".")[0]]
    ]
    allowed = [arrow for arrow in up if is_between_stages(*arrow.split(" -> "))]
    assert sorted(set(up) - set(allowed)) == []


def is_between_stages(module: str, name: str) -> bool:
    """Whether a stage may import this of another: its config, or what BETWEEN_STAGES lists."""
    stage, other = module.split(".")[0], name.split(".")[0]
    if stage not in STAGES or other not in STAGES:
        return False
    if other == "pool" or name.split(".")[1:2] == ["config"]:
        return True
    return any(f"{name}.".startswith(f"{part}.") for part in BETWEEN_STAGES.get(stage, ()))


def test_stages_import_only_what_is_shared():
    wrong = [
        f"{module} -> {name}"
        for module, name in arrows()
        if module.split(".")[0] in STAGES and name.split(".")[0] in STAGES and not is_between_stages(module, name)
    ]
    assert sorted(set(wrong)) == []


def test_nothing_outside_of_plugins_imports_plugins():
    """Registries find them by name, so that the recipe runs without any."""
    assert [f"{module} -> {name}" for module, name in arrows() if name.split(".")[0] == "plugins"] == []


def test_packages_make_no_circle():
    below: dict[str, set[str]] = {}
    for module, name in arrows():
        below.setdefault(module.split(".")[0], set()).add(name.split(".")[0])
    TopologicalSorter(below).prepare()  # raises CycleError naming the circle


def test_modules_make_no_circle():
    """No two modules need each other, not even through an import inside a function."""
    modules = {module_of(path).removesuffix(".__init__"): path for path in SRC.rglob("*.py")}
    below = {}
    for module, path in modules.items():
        found = {longest_prefix(name, modules) for name in imports(path)}
        below[module] = found - {module, None}
    TopologicalSorter(below).prepare()  # raises CycleError naming the circle


def longest_prefix(name: str, modules: Container[str]) -> str | None:
    """Return the module that holds an imported name."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else None


def test_configs_import_only_configs_and_tables():
    """A config looks at no installed package and no source of a stage, lazily neither."""
    tables = {"language.table", "evaluate.catalog"}  # and registries
    wrong = [
        f"{module_of(path)} -> {name}"
        for path in sorted(SRC.glob("*/config.py"))
        for name in imports(path)
        if name.split(".")[0] != "core" and name.split(".")[1:2] != ["config"]
        if not any(f"{name}.".startswith(f"{table}.") for table in tables)
    ]
    assert wrong == []


def test_only_the_executor_imports_ray_and_curation_imports_no_torch():
    curation = {"core", "kernels", "language", "pool", "metadata", "match", "balance", "curate"}
    for path in SRC.rglob("*.py"):
        names = {name.split(".")[0] for name in all_imports(path)}
        module = module_of(path)
        assert "ray" not in names or module.startswith("core.execute"), module
        assert "torch" not in names or module.split(".")[0] not in curation, module


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


def test_nothing_is_written_through_a_memory_map():
    """A write to a map of a file ends the process where the disk is full."""
    writable = re.compile(r"open_memmap(?!\([^)]*mode=\"r\"\))|mode=\"(r\+|w\+)\"|ACCESS_WRITE|ACCESS_COPY")
    assert [path for path in SRC.rglob("*.py") if writable.search(path.read_text(encoding="utf-8"))] == []


HEAVY = ("torch", "ray", "transformers", "torchvision", "tokenizers")

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is blocked in this test")
sys.meta_path.insert(0, Block())
"""


def test_import_pulls_nothing_heavy_and_public_names_resolve_on_first_access():
    """Not even the core's libraries are loaded."""
    code = """
import worldclip, sys
print(*sys.modules)
try: worldclip.nothing
except AttributeError as error: print(error)
print(worldclip.match.Matcher(["cat"]).match("a cat").tolist(), worldclip.languages.from_lid("yue", scheme="lid176"))
print(worldclip.balance.tail_fraction([1, 3, 6, 90], 10))
"""
    loaded, error, *results = python("-c", BLOCK + code).splitlines()
    assert not {*HEAVY, "numpy", "numba", "pyarrow", "matplotlib", "argparse"} & set(loaded.split())
    assert "no attribute 'nothing'" in error
    assert " ".join(results).split() == ["[0]", "zh", "0.1"]
