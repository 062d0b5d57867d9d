"""Stage 5, train: kept pairs -> checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.train.stage import train as train

__getattr__, __dir__, __all__ = lazy_names(__name__)
