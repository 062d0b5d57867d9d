"""Stage 5, train: kept pairs -> checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.contracts.layout import best_checkpoint as best_checkpoint
    from worldclip.contracts.layout import latest_checkpoint as latest_checkpoint
    from worldclip.train.stage import train as train

_HOMES = {
    "best_checkpoint": "worldclip.contracts.layout",
    "latest_checkpoint": "worldclip.contracts.layout",
    "train": "worldclip.train.stage",
}
__all__ = ["best_checkpoint", "latest_checkpoint", "train"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
