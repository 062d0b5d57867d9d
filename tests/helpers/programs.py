"""Command lines of tests: a program that must succeed, and the words of a command with its places."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def output_of(command: Sequence[object], *, cwd: Path | None = None, stdin: str = "", **environment: str) -> str:
    """Return what a program prints; `environment` is added to that of this process.

    Raises AssertionError with the first and the last of its messages where it does not end with code 0.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env=os.environ | environment, input=stdin, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    if done.returncode:
        messages = done.stderr
        if len(messages) > 5000:  # a fault begins with where it came about and ends with all modules of the process
            messages = f"{messages[:3000]}\n...\n{messages[-2000:]}"
        raise AssertionError(f"code {done.returncode}: {done.stdout[-2000:]}{messages}")
    return done.stdout


def python(*arguments: object, cwd: Path | None = None, stdin: str = "", **environment: str) -> str:
    """Return what Python prints when it runs with these arguments."""
    return output_of([sys.executable, *arguments], cwd=cwd, stdin=stdin, **environment)


def words_of(command: str, places: Mapping[str, Path]) -> list[str]:
    """Return the words of a command, with the path of each place that a word, or its end behind = or :, names."""
    names = "|".join(sorted(places, key=len, reverse=True))
    place = rf"(?:^|(?<=[=:]))({names})(?=/|$)"
    return [re.sub(place, lambda match: str(places[match[1]]), word) for word in command.split()]
