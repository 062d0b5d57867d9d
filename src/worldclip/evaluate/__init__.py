"""Stage 6, evaluate: checkpoint -> results.jsonl, one record per model, dataset, language and task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.evaluate.stage import evaluate as evaluate

__getattr__, __dir__, __all__ = lazy_names(__name__)
