"""Lists and matches are the same on every Python: no Unicode version of an interpreter decides them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import worldclip
from worldclip.language.characters import is_in

SCRIPT = Path(__file__).parent / "helpers" / "lists_and_matches.py"
SOURCES = Path(worldclip.__file__).parents[1]
MINORS = range(11, 14)  # of Python 3, as pyproject.toml allows
NEEDED = "import worldclip.match, worldclip.metadata.stage"

# A digest of what `str` says of the characters whose ranges are read; needs no package.
ANSWERS = """
import hashlib, json, sys, unicodedata
known = [chr(c) for low, high in json.load(sys.stdin) for c in range(low, high)]
digest = hashlib.sha256()
for x in known:
    answers = (x.isalnum(), x.isspace(), x.lower(), x.upper(), x.title(), x.casefold(), unicodedata.category(x),
               f"{x}\u03a3".lower(), f"a{x}\u03a3".lower(), f"a\u03a3{x}a".lower(), f"a\u03a3{x}".lower(),
               unicodedata.normalize("NFC", f"a{x}\u0301"))
    digest.update(ascii(answers).encode())
digest.update(ascii([c for c in range(0x110000) if chr(c).isspace()]).encode())
print(digest.hexdigest())
"""


def run(python: str, *arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    command = [python, *map(str, arguments)]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, check=False)


def other_pythons() -> list[str]:
    """Return an interpreter of each other version that is on the PATH."""
    names = [f"python3.{minor}" for minor in MINORS if minor != sys.version_info.minor]
    paths = [path for path in map(shutil.which, names) if path is not None]
    return [path for path in paths if run(path, "-c", "").returncode == 0]


def test_interpreters_agree_on_the_characters_of_the_table():
    """`str` may answer for them.  A Python that fails here must get these answers from the table as well."""
    others = other_pythons()
    if not others:
        pytest.skip("the PATH has no second Python between 3.11 and 3.13")
    bounds = np.flatnonzero(np.diff(~is_in("Cn"), prepend=False, append=False)).reshape(-1, 2)
    ranges = json.dumps(bounds.tolist())
    digests = {python: run(python, "-c", ANSWERS, stdin=ranges).stdout for python in (sys.executable, *others)}
    assert len(set(digests.values())) == 1, digests
    assert len(digests[sys.executable]) == 65


def test_lists_and_matches_are_equal_under_every_interpreter():
    others = [python for python in other_pythons() if run(python, "-c", NEEDED).returncode == 0]
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
