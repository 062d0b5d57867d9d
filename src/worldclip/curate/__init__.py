"""4  probabilities -> curated pool; the keep decision is shared with the loader (submodules load on first use)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldclip.curate.config import CurateConfig as CurateConfig

if TYPE_CHECKING:
    from worldclip.coin import uniform as uniform
    from worldclip.curate.curate import inputs as inputs
    from worldclip.curate.curate import read_curated as read_curated
    from worldclip.curate.curate import relevant_config as relevant_config
    from worldclip.curate.curate import run as run
    from worldclip.curate.curate import run_shards as run_shards
    from worldclip.curate.curator import Curator as Curator
    from worldclip.curate.decide import keep_prob as keep_prob

_CALLS = {
    "uniform": "worldclip.coin",
    "keep_prob": "worldclip.curate.decide",
    "Curator": "worldclip.curate.curator",
    "read_curated": "worldclip.curate.curate",
    "run": "worldclip.curate.curate",
    "run_shards": "worldclip.curate.curate",
    "inputs": "worldclip.curate.curate",
    "relevant_config": "worldclip.curate.curate",
}

__all__ = ["CurateConfig", *_CALLS]


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module(_CALLS[name]), name)
    raise AttributeError(f"module 'worldclip.curate' has no attribute {name!r}")
