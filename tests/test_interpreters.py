"""Lists and matches are the same on every Python: no Unicode version of an interpreter decides them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import worldclip

SCRIPT = Path(__file__).parent / "helpers" / "lists_and_matches.py"
SOURCES = Path(worldclip.__file__).parents[1]
MINORS = range(11, 14)  # of Python 3, as pyproject.toml allows


def run(python: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    return subprocess.run([python, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


def other_pythons() -> list[str]:
    """Return an interpreter of each other version on the PATH that has the packages of the core."""
    names = [f"python3.{minor}" for minor in MINORS if minor != sys.version_info.minor]
    paths = [path for path in map(shutil.which, names) if path is not None]
    return [
        path for path in paths if run(path, "-c", "import worldclip.match, worldclip.metadata.stage").returncode == 0
    ]


def test_lists_and_matches_are_equal_under_every_interpreter() -> None:
    others = other_pythons()
    if not others:
        pytest.skip("the PATH has no second Python between 3.11 and 3.13 with the packages of worldclip")
    outputs = {}
    for python in (sys.executable, *others):
        done = run(python, SCRIPT)
        assert done.returncode == 0, done.stderr
        outputs[python] = json.loads(done.stdout.splitlines()[-1])
    expected = outputs.pop(sys.executable)
    assert len(expected) == 6
    for python, digests in outputs.items():
        assert {name for name in expected if digests.get(name) != expected[name]} == set(), python
