"""3  counts -> tail fraction -> thresholds -> entry probabilities.  Arrays in, arrays out; counts are all it reads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from worldclip.balance.config import BalanceConfig as BalanceConfig

if TYPE_CHECKING:
    from worldclip.balance.balance import entry_probs as entry_probs
    from worldclip.balance.balance import inputs as inputs
    from worldclip.balance.balance import relevant_config as relevant_config
    from worldclip.balance.balance import run as run
    from worldclip.balance.balance import tail_fraction as tail_fraction
    from worldclip.balance.balance import threshold_for as threshold_for

_CALLS = ("tail_fraction", "threshold_for", "entry_probs", "run", "inputs", "relevant_config")

__all__ = ["BalanceConfig", *_CALLS]


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(importlib.import_module("worldclip.balance.balance"), name)
    raise AttributeError(f"module 'worldclip.balance' has no attribute {name!r}")
