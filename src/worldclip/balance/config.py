"""How flat each language's head becomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class BalanceConfig:
    """The threshold of each list of entries: matches below which an entry is tail, and kept whole."""

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
        return [*self._problems_of_rule(), *self._problems_of_values()]

    def _problems_of_rule(self) -> list[str]:
        """Which of english_threshold, tail_fraction and thresholds each rule takes."""
        takes = {
            "tail_fraction": "exactly one of balance.english_threshold (as 20000) and balance.tail_fraction (as 0.06)",
            "same_threshold": "balance.english_threshold alone, the threshold of every list",
            "table": "balance.thresholds alone, the threshold of each list",
        }[self.rule]
        wrong = {
            "tail_fraction": (self.english_threshold is None) == (self.tail_fraction is None),
            "same_threshold": self.english_threshold is None or self.tail_fraction is not None,
            "table": self.english_threshold is not None or self.tail_fraction is not None or self.thresholds is None,
        }[self.rule] or (self.rule != "table" and self.thresholds is not None)
        if not wrong:
            return []
        values = {
            "english_threshold": self.english_threshold,
            "tail_fraction": self.tail_fraction,
            "thresholds": self.thresholds,
        }
        given = [f"balance.{key} = {value!r}" for key, value in values.items() if value is not None]
        return [f"balance.rule is {self.rule!r} with {', '.join(given) or 'none of them set'}; set {takes}"]

    def _problems_of_values(self) -> list[str]:
        found = []
        thresholds = {"english_threshold": self.english_threshold}
        if isinstance(self.thresholds, dict):
            thresholds |= {f"thresholds.{lang}": threshold for lang, threshold in self.thresholds.items()}
        found += [
            f"balance.{key} is {value}; it counts matches per entry and must be at least 1"
            for key, value in thresholds.items()
            if value is not None and value < 1
        ]
        fractions = {"tail_fraction": self.tail_fraction}
        fractions |= {f"tail_fractions.{lang}": fraction for lang, fraction in self.tail_fractions.items()}
        found += [
            f"balance.{key} is {value}; it is the share of matches on tail entries, from 0 to 1 (0.06 in the paper)"
            for key, value in fractions.items()
            if value is not None and not 0 <= value <= 1
        ]
        if self.min_threshold < 0:
            found.append(
                f"balance.min_threshold is {self.min_threshold}; it is a floor of matches per entry, 0 for none"
            )
        return found
