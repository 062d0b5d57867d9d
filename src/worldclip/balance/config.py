"""How much of each language's head is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from worldclip.core.settings import AtLeast, Between, Config, Problems

_TAIL_FRACTION = Between(0, 1, "the paper uses 0.06")
_THRESHOLD = AtLeast(1, "matches per entry")


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig(Config):
    """The threshold of each entry list: an entry with fewer matches is tail, and its pairs are always kept.

    Examples:
        worldclip balance runs/my_images --tail-fraction 0.06
        worldclip balance runs/my_images --tail-fractions.sw 0.3
    """

    rule: Literal["tail_fraction", "same_threshold"] = "tail_fraction"
    """How thresholds are set: tail_fraction (every list has the same tail fraction) or same_threshold (English's for
    all)."""
    english_threshold: Annotated[int | None, _THRESHOLD] = None
    """Threshold of the English list, in matches per entry; t_en in arXiv:2507.22062, algorithm 1."""
    tail_fraction: Annotated[float | None, _TAIL_FRACTION] = None
    """Share of matches on tail entries, the same in every list; p in arXiv:2507.22062, where it is 0.06."""
    tail_fractions: Annotated[dict[str, float], _TAIL_FRACTION] = field(default_factory=dict)
    """Tail fraction of single languages, under any rule."""
    min_threshold: Annotated[int, AtLeast(0, "matches per entry, 0 for no minimum")] = 0
    """Lower limit of every threshold; 0 as in the reference."""

    def own_problems(self) -> Problems:
        """Yield a rule whose keys are not set, or set with others."""
        has_threshold = self.english_threshold is not None
        has_fraction = self.tail_fraction is not None
        if self.rule == "same_threshold" and (has_fraction or not has_threshold):
            yield "rule", "set only english_threshold, the threshold of every entry list"
        elif has_threshold == has_fraction:
            now = "both" if has_fraction else "none"
            yield "rule", f"set exactly one of english_threshold (for example 20000) and tail_fraction; now set: {now}"
