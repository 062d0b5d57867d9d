"""Results that are promised on every processor: under each BLAS kernel, and without the wide instructions.

docs/design.md, section 4.8, has the table of what is promised.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from killed import digests_of_curation
from programs import python

TESTS = Path(__file__).parent
NUMERIC_TESTS = [f"evaluate/test_{name}.py" for name in ("ranking", "zeroshot", "tasks", "measures")]

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


@pytest.mark.parametrize(
    "core", ["Prescott", *(pytest.param(core, marks=pytest.mark.slow) for core in ("Haswell", "Zen", "SkylakeX"))]
)
def test_numeric_tests_pass_under_each_blas_kernel(core):
    pytest.importorskip("threadpoolctl")
    if not blas_kernel():
        pytest.skip("numpy has another BLAS than OpenBLAS")
    if blas_kernel(core) == blas_kernel():
        pytest.skip(f"told {core}, OpenBLAS takes {blas_kernel()}, as in all other tests")
    if core == "Zen" and blas_kernel(core) == blas_kernel("Haswell"):
        pytest.skip("Zen has Haswell's kernels in this OpenBLAS")
    options = ["-q", "-x", "-p", "no:cacheprovider"]
    python("-m", "pytest", *options, *NUMERIC_TESTS, cwd=TESTS, OPENBLAS_CORETYPE=core)


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
