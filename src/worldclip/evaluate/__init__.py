"""Stage 6, evaluate: checkpoint -> results.jsonl, one record per model, dataset, language and task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.evaluate.stage import inputs as inputs
    from worldclip.evaluate.stage import relevant_config as relevant_config
    from worldclip.evaluate.stage import run as run

_HOMES = {
    "inputs": "worldclip.evaluate.stage",
    "relevant_config": "worldclip.evaluate.stage",
    "run": "worldclip.evaluate.stage",
}
__all__ = ["inputs", "relevant_config", "run"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
