"""Judge a contrast of two arms as docs/ablation/expectations.md says: over worlds with a pooled residual, and concepts.

A arms, W worlds, L languages, C concepts of a world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hits import HitSet
from scipy.optimize import brentq
from scipy.stats import t as student

MARGIN = 0.06  # relative; the paper's 64.7 against 61.1 is 5.9% (arXiv:2507.22062)
LEVEL = 0.05
MIN_P = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A mean of hits: equal weight for the concepts of a part, then for the languages."""

    langs: tuple[int, ...]
    """Rows of the hits."""
    part: str = "all"
    """all, head, tail (of the language), flags, seldom_in_english."""
    set_name: str = "test"
    top: int = 1

    def weights(self, hits: HitSet) -> np.ndarray:
        """(L, C) that sum to 1."""
        masks = {
            "all": np.ones_like(hits.thirds, bool),
            "head": hits.thirds == 0,
            "tail": hits.thirds == 2,
            "flags": np.broadcast_to(hits.kinds == 1, hits.thirds.shape),
            "seldom_in_english": np.broadcast_to(hits.kinds == 2, hits.thirds.shape),
        }
        weights = np.zeros(hits.thirds.shape)
        rows = list(self.langs)
        mask = masks[self.part][rows]
        weights[rows] = mask / mask.sum(axis=1, keepdims=True) / len(rows)
        return weights

    def parts(self, hits: HitSet) -> np.ndarray:
        """(C,) what each concept adds to the accuracy."""
        bits = hits.top1_LCR if self.top == 1 else hits.top5_LCR
        return (self.weights(hits) * bits.mean(axis=2)).sum(axis=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A measure of all arms of one width in all worlds."""

    arms: tuple[str, ...]
    accuracy_AW: np.ndarray
    parts: dict[str, list[np.ndarray]]
    """Arm -> for each world (C,) what each concept adds."""
    weights: list[np.ndarray]
    """For each world (C,) the share of each concept in the measure."""
    concepts: list[np.ndarray]
    """For each world (C,) keys."""

    def residual(self, is_log: bool) -> tuple[float, int]:
        """Return sd and degrees of freedom of what neither arm nor world explains."""
        values = np.log(self.accuracy_AW) if is_log else self.accuracy_AW
        rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        degrees = (values.shape[0] - 1) * (values.shape[1] - 1)
        return float(np.sqrt((rest**2).sum() / degrees)), degrees


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A contrast, log ratio or difference, with its errors over worlds and over concepts."""

    value: float
    world_error: float
    degrees: float
    concept_error: float
    num_concepts: int

    def half_width(self, confidence: float) -> float:
        quantile = (1 + confidence) / 2
        over_worlds = student.ppf(quantile, self.degrees) * self.world_error
        over_concepts = student.ppf(quantile, self.num_concepts - 1) * self.concept_error
        return float(np.hypot(over_worlds, over_concepts))

    def interval(self, confidence: float) -> tuple[float, float]:
        half = self.half_width(confidence)
        return self.value - half, self.value + half

    def p_value(self) -> float:
        """Return the smallest level at which the interval excludes 0, at least MIN_P."""
        distance = abs(self.value)
        if self.half_width(1 - MIN_P) <= distance:
            return MIN_P
        return float(brentq(lambda level: self.half_width(1 - level) - distance, MIN_P, 1.0))


def estimate(table: Table, first: str, second: str, is_log: bool) -> Estimate:
    """second against first: log ratio of accuracies, or their difference."""
    rows = [table.arms.index(arm) for arm in (first, second)]
    values = np.log(table.accuracy_AW[rows]) if is_log else table.accuracy_AW[rows]
    deviation, degrees = table.residual(is_log)
    num_worlds = values.shape[1]
    gains = _concept_gains(table, first, second, is_log)
    return Estimate(
        value=float((values[1] - values[0]).mean()),
        world_error=deviation * (2 / num_worlds) ** 0.5,
        degrees=degrees,
        concept_error=_concept_error(gains),
        num_concepts=len(gains),
    )


def change(tables: Sequence[Table], first: str, second: str) -> Estimate:
    """The log ratio of the second table minus that of the first; degrees of freedom by Welch and Satterthwaite."""
    before, after = (estimate(table, first, second, is_log=True) for table in tables)
    variances = np.array([before.world_error, after.world_error]) ** 2
    gains = {key: -gain for key, gain in _concept_gains(tables[0], first, second, is_log=True).items()}
    for key, gain in _concept_gains(tables[1], first, second, is_log=True).items():
        gains[key] = gains.get(key, 0.0) + gain
    return Estimate(
        value=after.value - before.value,
        world_error=float(variances.sum() ** 0.5),
        degrees=float(variances.sum() ** 2 / (variances**2 / [before.degrees, after.degrees]).sum()),
        concept_error=_concept_error(gains),
        num_concepts=len(gains),
    )


def _concept_gains(table: Table, first: str, second: str, is_log: bool) -> dict[str, float]:
    """Concept -> how far it moves the contrast from where the other concepts have it, summed over worlds."""
    gains: dict[str, float] = {}
    num_worlds = table.accuracy_AW.shape[1]
    for world in range(num_worlds):
        one, two = (table.parts[arm][world] for arm in (first, second))
        if is_log:
            moves = two / two.sum() - one / one.sum()
        else:
            moves = two - one - table.weights[world] * (two.sum() - one.sum())
        for place in np.flatnonzero(table.weights[world]):
            key = str(table.concepts[world][place])
            gains[key] = gains.get(key, 0.0) + float(moves[place]) / num_worlds
    return gains


def _concept_error(gains: dict[str, float]) -> float:
    """Return the standard error over concepts; where all worlds have the same, sd of their gains / sqrt(number)."""
    number = len(gains)
    return float((number / (number - 1) * sum(gain**2 for gain in gains.values())) ** 0.5)


def verdict(found: Estimate, adjusted_p: float, is_log: bool) -> str:
    low, high = found.interval(1 - LEVEL)
    is_different = (low > 0 or high < 0) and adjusted_p < LEVEL
    low, high = found.interval(1 - 2 * LEVEL)
    is_equal = is_log and np.log(1 - MARGIN) < low and high < np.log(1 + MARGIN)
    if is_different:
        return "difference below the margin" if is_equal else "difference"
    return "no difference" if is_equal else "not decided"
