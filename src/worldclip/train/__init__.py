"""5  curated pool -> checkpoints: a plan of pairs, a loader, one loop (submodules load on first use)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldclip.train.checkpoint import best_checkpoint as best_checkpoint
    from worldclip.train.checkpoint import latest_checkpoint as latest_checkpoint
    from worldclip.train.train import dismiss as dismiss
    from worldclip.train.train import help_train as help_train
    from worldclip.train.train import inputs as inputs
    from worldclip.train.train import relevant_config as relevant_config
    from worldclip.train.train import run as run

_CALLS = {
    "run": "worldclip.train.train",
    "inputs": "worldclip.train.train",
    "relevant_config": "worldclip.train.train",
    "help_train": "worldclip.train.train",
    "dismiss": "worldclip.train.train",
    "latest_checkpoint": "worldclip.train.checkpoint",
    "best_checkpoint": "worldclip.train.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module(_CALLS[name]), name)
    raise AttributeError(f"module 'worldclip.train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CALLS])
