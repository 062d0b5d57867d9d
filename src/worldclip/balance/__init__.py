"""Stage 3, balance: counts -> tail fraction -> thresholds -> entry probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worldclip.balance.config import BalanceConfig as BalanceConfig
from worldclip.core.lazy import lazy_names

if TYPE_CHECKING:
    from worldclip.balance.formulas import entry_probs as entry_probs
    from worldclip.balance.formulas import tail_fraction as tail_fraction
    from worldclip.balance.formulas import threshold_for as threshold_for
    from worldclip.balance.stage import balance as balance

_HOMES = {
    "entry_probs": "worldclip.balance.formulas",
    "balance": "worldclip.balance.stage",
    "tail_fraction": "worldclip.balance.formulas",
    "threshold_for": "worldclip.balance.formulas",
}
__all__ = ["BalanceConfig", "balance", "entry_probs", "tail_fraction", "threshold_for"]
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
