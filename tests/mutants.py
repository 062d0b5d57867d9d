"""Random mutants: which changes of src does no test see?

    make mutants                                                     # 100 by a new seed
    .venv/bin/python tests/mutants.py --seed 7 --number 20 --rooms pool match

A mutant is one change of src/worldclip: a comparison, an operation, a number, a condition, or a call left out.  It is
applied in a clone of HEAD, build/mutants/tree, where the tests that run its line are run: those of its room first, the
quick ones first.  A failure or a hang: the mutant is seen.  A room is a folder below src/worldclip.

Which tests run a line says a map (line_map.py), which is made anew after each commit of src or tests, and where
build/mutants is removed.  Lines that run at import belong to the tests that run any line of their module, and to those
of their room.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from line_map import LineMap, function_at, functions_of, is_compiled, name_of, write_line_map

REPOSITORY = Path(__file__).parents[1]
BUILD = REPOSITORY / "build/mutants"
TREE = BUILD / "tree"
MAP = BUILD / "map"
KERNELS = BUILD / "kernels"  # compiled
ENVIRONMENT = {"PYTHONPATH": f"{TREE / 'src'}:{TREE / 'tests'}", "OMP_NUM_THREADS": "1"}
SECONDS = 60  # of tests for a mutant, as measured for the map: of more tests, the first ones are run
LIMIT = 600  # seconds until the tests of a mutant hang
SILENT = {"say", "print", "warn"}  # a message left out is no mistake
SWAPPED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change of one file: `new` in place of the bytes from `start` to `end`."""

    path: str  # from the repository's root
    lines: range
    start: int
    end: int
    old: str
    new: str

    @property
    def room(self) -> str:
        return Path(self.path).parts[2]


def draw_mutants(path: str) -> list[Mutant]:
    """Return all mutants of a file."""
    data = (TREE / path).read_bytes()
    line_starts = [0]
    for line in data.splitlines(keepends=True):
        line_starts.append(line_starts[-1] + len(line))
    mutants = []
    for node, new in changes_below(ast.parse(data)):
        start = line_starts[node.lineno - 1] + node.col_offset
        end = line_starts[node.end_lineno - 1] + node.end_col_offset
        lines = range(node.lineno, node.end_lineno + 1)
        mutants.append(Mutant(path, lines, start, end, data[start:end].decode(), new))
    return mutants


def changes_below(node: Any) -> Iterator[tuple[Any, str]]:
    """Yield (node, new text) of all changes, but for what is raised or said, annotations and decorators."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip: an assertion
        return
    if isinstance(node, ast.Call) and name_of(node.func) in SILENT:
        return
    if isinstance(node, ast.If) and name_of(node.test) == "TYPE_CHECKING":
        return
    yield from changes_of(node)
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns", "decorator_list"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from changes_below(child)


def changes_of(node: Any) -> Iterator[tuple[Any, str]]:
    """Yield (what is replaced, new text) for one node."""
    changed: Any = copy.copy(node)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        changed.ops = [SWAPPED[type(node.ops[0])]()]
        yield node, f"({ast.unparse(changed)})"
    elif isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in SWAPPED and not joins_text(node):
        changed.op = SWAPPED[type(node.op)]()
        yield node, ast.unparse(changed) if isinstance(node, ast.AugAssign) else f"({ast.unparse(changed)})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"bool({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield node, str(node.value + 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield node.test, f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and name_of(node.value.func) not in SILENT:
        yield node, "pass"


def joins_text(node: Any) -> bool:
    """Return whether an operation has a text, of which each other operation fails at once."""
    sides = (getattr(node, "left", None), getattr(node, "right", None))
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)


def choose_tests(line_map: LineMap, mutant: Mutant) -> list[str]:
    """Return the tests to run, in their order, about SECONDS of them."""
    path = TREE / mutant.path
    room = f"tests/{mutant.room}/"
    if function_at(path, mutant.lines[0]) is None:
        tests = line_map.tests_of_file(path) | {test for test in line_map.tests if test.startswith(room)}
    else:
        tests = line_map.tests_of_lines(path, mutant.lines)
    chosen: list[str] = []
    ready: set[str] = set()  # fixtures
    seconds = 0.0
    for test in sorted(tests, key=lambda test: (not test.startswith(room), line_map.seconds_of(test, set()))):
        more = line_map.seconds_of(test, ready)
        if not chosen or seconds + more < SECONDS:
            chosen.append(test)
            ready.update(line_map.tests[test]["fixtures"])
            seconds += more
    return chosen


def judge(mutant: Mutant, tests: list[str]) -> str:
    """Return what sees the mutant: a test or a hang; of an unseen one an empty string."""
    path = TREE / mutant.path
    original = path.read_bytes()
    times = path.stat()
    with tempfile.TemporaryDirectory(dir=BUILD) as kernels:
        shutil.copytree(KERNELS, kernels, dirs_exist_ok=True)
        if changes_kernels(mutant):
            for module in modules_on(path):
                for compiled in Path(kernels).glob(f"{module.parent.name}_*/{module.stem}.*"):
                    compiled.unlink()
        path.write_bytes(original[: mutant.start] + mutant.new.encode() + original[mutant.end :])
        try:
            return run_tests(tests, {**ENVIRONMENT, "NUMBA_CACHE_DIR": kernels, "PYTHONDONTWRITEBYTECODE": "1"})
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def changes_kernels(mutant: Mutant) -> bool:
    """Return whether compiled kernels may hold what changes."""
    path = TREE / mutant.path
    function = function_at(path, mutant.lines[0])
    if mutant.room == "kernels":
        return True
    if function is None:
        return any(is_compiled(other) for other in functions_of(path))
    return is_compiled(function)


@functools.cache
def modules_on(path: Path) -> set[Path]:
    """Return a module and all that import it, directly or not: numba does not see that what they compiled is old."""
    imports = {}
    for module in (TREE / "src").rglob("*.py"):
        imports[module] = set()
        for node in ast.walk(ast.parse(module.read_bytes())):
            if isinstance(node, ast.ImportFrom):
                imports[module].update(f"{node.module}.{alias.name}" for alias in node.names)
                imports[module].add(str(node.module))
    found = {path}
    queue = [path]
    while queue:
        name = ".".join(queue.pop().relative_to(TREE / "src").with_suffix("").parts).removesuffix(".__init__")
        importers = {module for module, names in imports.items() if name in names} - found
        found |= importers
        queue += importers
    return found


def run_tests(tests: list[str], environment: dict[str, str]) -> str:
    """Run tests in the clone until one fails, and return which one."""
    log = BUILD / "mutant.log"
    command = [sys.executable, "-m", "pytest", "-x", "--tb=no", "-p", "no:cacheprovider", "--disable-warnings", *tests]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=TREE, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "a hang"
    if code == 0:
        return ""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("FAILED", "ERROR"))), f"exit code {code}")


def prepare() -> LineMap:
    """Return the map of HEAD; clone it and run its suite where that is not done."""
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD:src", "HEAD:tests"]
    state = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    mark = BUILD / "state"
    if not mark.exists() or mark.read_text() != state:
        print("running the suite for the map of lines: a quarter of an hour", flush=True)
        shutil.rmtree(BUILD, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", REPOSITORY, TREE], check=True)
        write_line_map(MAP, TREE, {**ENVIRONMENT, "NUMBA_CACHE_DIR": str(KERNELS)})
        mark.write_text(state)
    return LineMap(MAP, TREE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--rooms", nargs="*", default=[])
    given = parser.parse_args()
    line_map = prepare()
    mutants = []
    for path in sorted((TREE / "src/worldclip").rglob("*.py")):
        mutants += draw_mutants(str(path.relative_to(TREE)))
    if given.rooms:
        mutants = [mutant for mutant in mutants if mutant.room in given.rooms]
    random.Random(given.seed).shuffle(mutants)
    print(f"seed {given.seed}: {given.number} of {len(mutants)} mutants", flush=True)
    drawn: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for mutant in mutants[: given.number]:
        began = time.perf_counter()
        tests = choose_tests(line_map, mutant)
        by = judge(mutant, tests) if tests else ""
        drawn[mutant.room] += 1
        seen[mutant.room] += bool(by)
        change = f"{mutant.path}:{mutant.lines[0]}: {mutant.old!r:.70} -> {mutant.new!r:.70}"
        seconds = time.perf_counter() - began
        print(f"{'seen  ' if by else 'UNSEEN'} {change} ({len(tests)} tests, {seconds:.0f} s) {by:.150}", flush=True)
    for room in sorted(drawn):
        print(f"{room:12} {seen[room]} of {drawn[room]}")
    print(f"{'all':12} {seen.total()} of {drawn.total()}")


if __name__ == "__main__":
    main()
