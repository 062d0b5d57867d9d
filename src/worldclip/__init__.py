"""worldclip: image-text pairs in every language -> a curated pool -> a trained, measured, exported CLIP.

    worldclip.run("recipes/emoji.toml", out="runs/emoji")
    clip = worldclip.load("runs/emoji")

Submodules, `run` and `load` resolve on first access, so that this import stays light.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.model.load import load as load
    from worldclip.recipe import run as run
    from worldclip.tools.embed import embed as embed
    from worldclip.tools.search import search as search

if sys.platform == "win32":
    raise ImportError("worldclip runs on Linux and macOS, not on Windows; install it in WSL, the Linux of Windows")

# From release 1.29 on onnxruntime sends Microsoft what it runs, and writes a device id below ~/.cache when imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = _version("worldclip")

_CALLS = {
    "run": "worldclip.recipe",
    "load": "worldclip.model.load",
    "embed": "worldclip.tools.embed",
    "search": "worldclip.tools.search",
}
_ROOMS = (
    *("balance", "check", "config", "core", "curate", "evaluate", "export", "language", "match"),
    *("metadata", "model", "pool", "recipe", "report", "tools", "train"),
)
_SUBMODULES = {name: f"worldclip.{name}" for name in _ROOMS} | {"languages": "worldclip.language.table"}

__all__ = ["__version__", "embed", "load", "run", "search"]


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module(_CALLS[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    raise AttributeError(f"module 'worldclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__doc__", "__version__", *_CALLS, *_SUBMODULES])
