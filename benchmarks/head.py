"""The head of a measurement on a page of results: one line with date, machine, versions, command and measured code.

A page may hold several: each is that of the tables up to the next.  `older.py` compares their dates with git's history.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

QUOTED = r"`[^`\n]+`(?:, `[^`\n]+`)*"
# "at COMMIT": the command is of that commit, since its script is gone or the measured code is no longer the newest
HEAD = re.compile(
    rf"^Measured (?P<date>\d{{4}}-\d\d-\d\d) on (?P<machine>.+)\. Command: (?P<commands>{QUOTED})"
    rf"(?: at (?P<commit>[0-9a-f]{{8}}))?\. Measures (?P<paths>{QUOTED})\.$",
    re.MULTILINE,
)


def make_head(paths: Sequence[str], packages: Sequence[str], machine: str = "") -> str:
    """Return the head of what this process measures now; `paths` are the code that decides the numbers."""
    from worldclip.core.artifacts import versions  # older.py and the tests read heads without it

    machine = machine or f"{describe_processor()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f})"
    known = ", ".join(f"{name} {number}" for name, number in versions(packages).items())
    words = (word if word.startswith("-") else Path(word).name for word in sys.argv[1:])
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    measured = ", ".join(f"`{path}`" for path in paths)
    return f"Measured {date.today()} on {machine}; {known}. Command: `{command}`. Measures {measured}."


def describe_processor() -> str:
    """Return the processor's name where /proc says it, else its architecture; with its instructions for bfloat16."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    values = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in lines)}
    features = values.get("flags", values.get("Features", []))
    flags = [flag for flag in ("avx512_bf16", "amx_bf16", "bf16") if flag in features]
    return " ".join([*values.get("model name", [platform.machine()]), *([f"({', '.join(flags)})"] if flags else [])])
