"""Run a program, and fail with what it says if it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def output_of(command: Sequence[object], *, cwd: Path | None = None, stdin: str = "", **environment: str) -> str:
    """Return what a program prints; `environment` is added to that of this process.

    Raises AssertionError with the end of its messages where it does not end with code 0.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=os.environ | environment, input=stdin, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


def python(*arguments: object, cwd: Path | None = None, stdin: str = "", **environment: str) -> str:
    """Return what Python prints when it runs with these arguments."""
    return output_of([sys.executable, *arguments], cwd=cwd, stdin=stdin, **environment)
