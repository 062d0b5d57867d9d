"""Stage 3, balance: counts -> tail fraction -> thresholds -> entry probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.balance.formulas import entry_probs as entry_probs
    from worldclip.balance.formulas import tail_fraction as tail_fraction
    from worldclip.balance.formulas import threshold_for as threshold_for
    from worldclip.balance.stage import balance as balance

__getattr__, __dir__, __all__ = lazy_names(__name__)
