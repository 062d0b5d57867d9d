"""Stage 4, curate: probabilities -> kept pairs; the keep decision is shared with the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.core.coin import uniform as uniform
    from worldclip.curate.candidates import Candidates as Candidates
    from worldclip.curate.candidates import CurateWork as CurateWork
    from worldclip.curate.candidates import decide_on as decide_on
    from worldclip.curate.candidates import read_curated as read_curated
    from worldclip.curate.config import CurateConfig as CurateConfig
    from worldclip.curate.curator import Curator as Curator
    from worldclip.curate.decide import keep_prob as keep_prob
    from worldclip.curate.stage import curate as curate
    from worldclip.curate.stage import online_work as online_work
    from worldclip.curate.stage import require_current as require_current

__getattr__, __dir__, __all__ = lazy_names(__name__)
