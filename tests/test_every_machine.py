"""Results that are promised on every machine: under each Python, each BLAS kernel, and without the wide instructions.

docs/design.md, section 4.8, has the table of what is promised.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import worldclip
from killed import digests_of_curation
from programs import output_of, python
from worldclip.language.characters import is_in

TESTS = Path(__file__).parent
SETTINGS = {"PYTHONPATH": str(Path(worldclip.__file__).parents[1]), "OMP_NUM_THREADS": "1"}

# --- interpreters -----------------------------------------------------------------------------------------------------

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


def other_pythons() -> list[str]:
    """Return an interpreter of each other version that is on the PATH."""
    names = [f"python3.{minor}" for minor in MINORS if minor != sys.version_info.minor]
    paths = [path for path in map(shutil.which, names) if path is not None]
    return [path for path in paths if runs(path, "")]


def runs(interpreter: str, code: str) -> bool:
    command = [interpreter, "-c", code]
    return subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, check=False).returncode == 0


def test_interpreters_agree_on_the_characters_of_the_table():
    """`str` may answer for them.  A Python that fails here must get these answers from the table as well."""
    others = other_pythons()
    if not others:
        pytest.skip("the PATH has no second Python between 3.11 and 3.13")
    bounds = np.flatnonzero(np.diff(~is_in("Cn"), prepend=False, append=False)).reshape(-1, 2)
    ranges = json.dumps(bounds.tolist())
    digests = {path: output_of([path, "-c", ANSWERS], stdin=ranges, **SETTINGS) for path in (sys.executable, *others)}
    assert len(set(digests.values())) == 1, digests
    assert len(digests[sys.executable]) == 65


def test_lists_and_matches_are_equal_under_every_interpreter():
    others = [path for path in other_pythons() if runs(path, NEEDED)]
    if not others:
        pytest.skip("the PATH has no second Python between 3.11 and 3.13 with the packages of worldclip")
    script = TESTS / "helpers" / "lists_and_matches.py"
    printed = {path: output_of([path, script], **SETTINGS) for path in (sys.executable, *others)}
    outputs = {path: json.loads(lines.splitlines()[-1]) for path, lines in printed.items()}
    expected = outputs.pop(sys.executable)
    assert len(expected) == 7
    for path, digests in outputs.items():
        assert {name for name in expected if digests.get(name) != expected[name]} == set(), path


# --- processors -------------------------------------------------------------------------------------------------------

# Not those of scikit-learn: it computes with scipy's BLAS, another one.
NUMERIC_TESTS = ("evaluate/test_tasks.py", "-k", "not scikit_learn")

# What an x86 processor without AVX would take.  numba compiles anew for it, so that setting has a slow test of its own.
OLD_MATH = {"OPENBLAS_CORETYPE": "Prescott", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX,-FMA,-FMA4"}
OLD_NUMBA = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}

BLAS_KERNEL = """
import numpy, threadpoolctl
print(*{pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"})
"""
CURATE = """
import sys, worldclip
from worldclip.core.execute import LocalExecutor
worldclip.run(sys.argv[1], out=sys.argv[2], until="curate", executor=LocalExecutor(workers=1, quiet=True))
"""
IDENTIFY = """
import sys, hashlib, worldclip
texts = [f"{word} {i}" for i in range(400) for word in sys.stdin.read().split()]
labels, probs = worldclip.match.identify(texts)
print(hashlib.sha256("".join(labels).encode() + probs.tobytes()).hexdigest())
"""


def old_numpy() -> dict[str, str]:
    """Return the setting under which numpy uses only the instructions that it was built for at least."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}


@functools.cache
def blas_kernel(core: str = "") -> str:
    """Return the kernel that numpy's OpenBLAS takes when told a type of core; it refuses those the CPU lacks."""
    return python("-c", BLAS_KERNEL, **({"OPENBLAS_CORETYPE": core} if core else {})).strip()


@pytest.mark.parametrize("core", ["Prescott", pytest.param("Haswell", marks=pytest.mark.slow)])
def test_numeric_tests_pass_under_each_blas_kernel(core):
    pytest.importorskip("threadpoolctl")
    if not blas_kernel():
        pytest.skip("numpy has another BLAS than OpenBLAS")
    if blas_kernel(core) == blas_kernel():
        pytest.skip(f"told {core}, OpenBLAS takes {blas_kernel()}, as in all other tests")
    options = ["-v", "-x", "-p", "no:cacheprovider"]
    python("-um", "pytest", *options, *NUMERIC_TESTS, cwd=TESTS, OPENBLAS_CORETYPE=core)


def test_curation_leaves_the_same_bytes_without_wide_instructions(toy_world, toy_run, tmp_path):
    python("-c", CURATE, toy_world.recipe, tmp_path / "run", **OLD_MATH, **old_numpy())
    assert digests_of_curation(tmp_path / "run") == digests_of_curation(toy_run)


@pytest.mark.slow  # numba compiles all kernels anew
def test_compiled_kernels_leave_the_same_bytes_without_wide_instructions(toy_world, toy_run, tmp_path):
    settings = OLD_MATH | old_numpy() | OLD_NUMBA | {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    python("-c", CURATE, toy_world.recipe, tmp_path / "run", **settings)
    assert digests_of_curation(tmp_path / "run") == digests_of_curation(toy_run)
    words = (
        "a photo of the red circle صورة دائرة أحمر รูปวงกลมสีแดง 一张红色圆形的照片 ein rotes Haus über один красный дом"
    )
    assert python("-c", IDENTIFY, stdin=words, **settings) == python("-c", IDENTIFY, stdin=words)
