"""Stage 5, train: kept pairs -> checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.core.layout import best_checkpoint as best_checkpoint
    from worldclip.core.layout import latest_checkpoint as latest_checkpoint
    from worldclip.train.stage import dismiss as dismiss
    from worldclip.train.stage import help_train as help_train
    from worldclip.train.stage import inputs as inputs
    from worldclip.train.stage import relevant_config as relevant_config
    from worldclip.train.stage import run as run

_HOMES = {
    "best_checkpoint": "worldclip.core.layout",
    "dismiss": "worldclip.train.stage",
    "help_train": "worldclip.train.stage",
    "inputs": "worldclip.train.stage",
    "latest_checkpoint": "worldclip.core.layout",
    "relevant_config": "worldclip.train.stage",
    "run": "worldclip.train.stage",
}
__all__ = ["best_checkpoint", "dismiss", "help_train", "inputs", "latest_checkpoint", "relevant_config", "run"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
