"""6  checkpoint -> results.jsonl: one record per model, data set, language and task; table.md, report.json."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.evaluate.evaluate import inputs as inputs
    from worldclip.evaluate.evaluate import relevant_config as relevant_config
    from worldclip.evaluate.evaluate import run as run

_STAGE = ("run", "inputs", "relevant_config")


def __getattr__(name: str) -> Any:
    if name in _STAGE:
        return getattr(importlib.import_module("worldclip.evaluate.evaluate"), name)
    raise AttributeError(f"module 'worldclip.evaluate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_STAGE])
