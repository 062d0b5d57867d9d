"""Which tests run a line: the suite run once with coverage, and asked about lines afterwards (tests/mutants.py)."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

COMPILED = {"compiled", "inner", "inlined", "kernel", "intrinsic", "_emits"}  # decorators
FOLDER = "LINE_MAP"  # an environment variable: where the plug-in writes
CONTEXT = "LINE_MAP_CONTEXT"  # what a process that a test starts is run by


def write_line_map(folder: Path, tree: Path, environment: dict[str, str]) -> None:
    """Run the suite of a clone; write what each test runs, and for those that pass their seconds and fixtures."""
    folder.mkdir(parents=True)
    settings = {
        "source": f"{tree / 'src/worldclip'},{tree / 'tests'}",
        "data_file": folder / "coverage",
        "parallel": "true",
        "context": f"${{{CONTEXT}-}}",
        "patch": "_exit",
        "sigterm": "true",
    }
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    (folder / "coveragerc").write_text("[run]\n" + "".join(lines))
    command = [sys.executable, "-m", "pytest", "-p", "line_map", "-p", "no:cacheprovider", "--disable-warnings"]
    with open(folder / "suite.log", "wb") as log:
        subprocess.run(
            [*command, "-n", "2", "--dist", "loadfile"],
            cwd=tree,
            env=os.environ | environment | {FOLDER: str(folder)},
            stdout=log,
            stderr=log,
        )
    whole = coverage.Coverage(config_file=folder / "coveragerc")
    whole.combine()
    whole.save()


class LineRecorder:
    """Record in each process of tests which test, or which shared fixture, runs a line."""

    def __init__(self) -> None:
        settings = Path(os.environ[FOLDER], "coveragerc")
        self.coverage = coverage.Coverage(config_file=settings)
        self.coverage.start()
        os.environ["COVERAGE_PROCESS_START"] = str(settings)

    def switch(self, context: str) -> None:
        os.environ[CONTEXT] = context
        self.coverage.switch_context(context)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.item = item
        item.user_properties.append(("fixtures", item.fixturenames))
        self.switch(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        before = os.environ[CONTEXT]
        began = time.perf_counter()
        self.switch(fixturedef.argname)
        try:
            return (yield)
        finally:
            self.switch(before)
            self.item.user_properties.append((f"seconds of {fixturedef.argname}", time.perf_counter() - began))

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()


class TestRecorder:
    """Record in the process that steers the others what each test takes and uses."""

    def __init__(self) -> None:
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.tests[report.nodeid] = {"seconds": report.duration, **dict(report.user_properties)}

    def pytest_sessionfinish(self) -> None:
        Path(os.environ[FOLDER], "tests.json").write_text(json.dumps(self.tests))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LineRecorder() if hasattr(config, "workerinput") else TestRecorder())


class LineMap:
    """The tests that run a line, by name ("tests/pool/test_tar.py::test_x[y]"): those that passed for the map.

    Lines that a shared fixture runs belong to all its tests, though only the first one runs them.  Coverage sees no
    compiled code: its lines belong to the tests that run a line that names their function.
    """

    def __init__(self, folder: Path, tree: Path):
        self.data = coverage.CoverageData(str(folder / "coverage"))
        self.data.read()
        self.tests: dict[str, dict[str, Any]] = json.loads((folder / "tests.json").read_text())
        self.users: dict[str, set[str]] = defaultdict(set)  # tests of a fixture
        self.fixture_seconds: dict[str, float] = defaultdict(float)
        for test, entry in self.tests.items():
            for fixture in entry["fixtures"]:
                self.users[fixture].add(test)
                seconds = entry.get(f"seconds of {fixture}", 0)
                self.fixture_seconds[fixture] = max(seconds, self.fixture_seconds[fixture])
        self.mentions: dict[str, list[tuple[Path, int]]] = defaultdict(list)
        for path in [*tree.glob("src/worldclip/**/*.py"), *tree.glob("tests/**/*.py")]:
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Name | ast.Attribute):
                    self.mentions[name_of(node)].append((path, node.lineno))

    def tests_of_lines(self, path: Path, lines: range) -> set[str]:
        """Return the tests that run one of some lines of the clone."""
        tests = self._covered(path, lines)
        function = function_at(path, lines[0])
        if function is not None and (is_compiled(function) or not tests):
            tests |= self._tests_of_function(function.name, frozenset())
        return tests

    def tests_of_file(self, path: Path) -> set[str]:
        return self._covered(path, range(1, sys.maxsize))

    def _covered(self, path: Path, lines: range) -> set[str]:
        contexts: set[str] = set()
        for line, line_contexts in self.data.contexts_by_lineno(str(path)).items():
            if line in lines:
                contexts.update(line_contexts)
        tests = contexts & self.tests.keys()
        return tests.union(*(self.users[fixture] for fixture in contexts & self.users.keys()))

    def _tests_of_function(self, name: str, callees: frozenset[str]) -> set[str]:
        """Return the tests that run a line that names a function, or one that names a compiled function that does."""
        tests: set[str] = set()
        for path, line in self.mentions[name]:
            caller = function_at(path, line)
            if caller is None or not is_compiled(caller):
                tests |= self._covered(path, range(line, line + 1))
            elif caller.name != name and caller.name not in callees:
                tests |= self._tests_of_function(caller.name, callees | {name})
        return tests

    def seconds_of(self, test: str, ready: set[str]) -> float:
        """Return how long a test takes where some fixtures are there already."""
        entry = self.tests[test]
        return entry["seconds"] + sum(self.fixture_seconds[fixture] for fixture in {*entry["fixtures"]} - ready)


def name_of(node: ast.AST) -> str:
    """Return the last name of `f`, `a.f` or `f(...)`; of other nodes an empty string."""
    if isinstance(node, ast.Call):
        node = node.func
    return getattr(node, "attr", getattr(node, "id", ""))


@functools.cache
def functions_of(path: Path) -> list[ast.FunctionDef]:
    """Return the functions of a file."""
    return [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.FunctionDef)]


def function_at(path: Path, line: int) -> ast.FunctionDef | None:
    """Return the outermost function whose body holds a line; None for a line that runs at import."""
    around = [function for function in functions_of(path) if function.body[0].lineno <= line <= function.end_lineno]
    return min(around, key=lambda function: function.lineno, default=None)


def is_compiled(function: ast.FunctionDef) -> bool:
    return any(name_of(decorator) in COMPILED for decorator in function.decorator_list)
