"""3  counts -> tail fraction -> thresholds -> entry probabilities.  Arrays in, arrays out; counts are all it reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """How flat each language's head becomes."""

    rule: Literal["tail_fraction", "same_threshold", "table"] = "tail_fraction"
    """tail_fraction: each list gets the threshold that gives it the same tail; same_threshold; table."""
    english_threshold: int | None = None
    """Matches per English entry below which it counts as tail; t_en in arXiv:2507.22062, Alg. 1."""
    tail_fraction: float | None = None
    """Share of matches on tail entries, the same in every list; p in arXiv:2507.22062 (0.06 there)."""
    tail_fractions: dict[str, float] = field(default_factory=dict)
    """tail_fraction of single languages, under any rule."""
    thresholds: dict[str, int] | str | None = None
    """Rule table: threshold of each list, or a thresholds.json."""
    min_threshold: int = 0
    """Floor of every threshold; 0 as in the reference."""

    def problems(self) -> list[str]:
        return []
