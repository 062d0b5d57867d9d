"""Stage 4, curate: probabilities -> kept pairs; the keep decision is shared with the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names
from worldclip.curate.config import CurateConfig as CurateConfig

if TYPE_CHECKING:
    from worldclip.core.coin import uniform as uniform
    from worldclip.curate.curator import Curator as Curator
    from worldclip.curate.decide import keep_prob as keep_prob
    from worldclip.curate.stage import curate as curate
    from worldclip.curate.stage import read_curated as read_curated

_HOMES = {
    "Curator": "worldclip.curate.curator",
    "keep_prob": "worldclip.curate.decide",
    "read_curated": "worldclip.curate.stage",
    "curate": "worldclip.curate.stage",
    "uniform": "worldclip.core.coin",
}
__all__ = [
    "CurateConfig",
    "Curator",
    "curate",
    "keep_prob",
    "read_curated",
    "uniform",
]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
