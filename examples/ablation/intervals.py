"""Intervals of a difference between two arms over both seeds and concepts, and the tables of differences they give.

    python examples/ablation/intervals.py docs/ablation

An arm is trained with S seeds and tested on C concepts; another run would differ in both.  For the gains d_sc (second
arm minus first, same seed, same pictures), with d_s their mean over concepts and d_c over seeds:

    s_seeds = sd over s of d_s / sqrt(S)        s_concepts = sd over c of d_c / sqrt(C)
    mean +- sqrt((t(S - 1) s_seeds)^2 + (t(C - 1) s_concepts)^2)

t(k) is Student's 97.5% quantile of k degrees of freedom: with three seeds 4.3, with two 12.7.  What seed and concept do
not explain is in both terms, so the interval is rather too wide than too narrow: 94 to 99.6% of the intervals of
simulated arms with two or three seeds hold the true difference (tests/examples/test_ablation_intervals.py), against
28 to 95% of those over concepts alone.

Two or three seeds say little about their own spread, so the tables of the 52 earlier runs pool it: sd is what a run
differs from the mean of its arm, over all arms of a width, k its degrees of freedom:

    mean +- sqrt((t(k) sd sqrt(2 / S))^2 + (t(C - 1) s_concepts)^2)

Pairing by seed would buy little: at width 64 F is 1.6 in English and 1.8 in the others (2 and 24 degrees of freedom).
A star is Holm's, over all differences of the folder.

The folder holds results.csv (top-1 by run and language) and concept_intervals.csv (95% intervals over concepts with the
seeds fixed, from which s_concepts follows) of the 52 runs at commit a918772.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).parent))

from contrasts import LEVEL, Estimate, holm

NUM_CONCEPTS = 600
NORMAL_QUANTILE = 1.96  # an interval over concepts is this many standard errors to either side
MEASURES = ("English", "others")
HEADER = ("difference", "in", "points", "95%, seeds (pooled) and concepts", "by seed")

Group = tuple[str, int, str]  # arm, width, factor as in the run's name
Pair = tuple[Group, Group]  # first, second


class Difference(NamedTuple):
    """A difference of two arms as shares: by seed, and the standard error over concepts of its mean over seeds."""

    gains_S: np.ndarray
    concepts_error: float


def two_level_interval(
    gains_S: np.ndarray, concepts_error: float, num_concepts: int = NUM_CONCEPTS
) -> tuple[float, float]:
    """Return the 95% interval of the mean of `gains_S`, (S,), see above."""
    num_seeds = len(gains_S)
    mean = float(gains_S.mean())
    if num_seeds < 2:
        return -np.inf, np.inf
    seeds_error = gains_S.std(ddof=1) / num_seeds**0.5
    half = np.hypot(_quantile(num_seeds - 1) * seeds_error, _quantile(num_concepts - 1) * concepts_error)
    return mean - float(half), mean + float(half)


def difference(gains_SC: np.ndarray) -> Difference:
    """Return the difference whose gains by seed and concept are known."""
    by_concept_C = gains_SC.mean(axis=0)
    return Difference(gains_SC.mean(axis=1), float(by_concept_C.std(ddof=1) / len(by_concept_C) ** 0.5))


def _quantile(degrees: int) -> float:
    return float(student.ppf(0.975, degrees))


# Tables


def label(group: Group) -> str:
    arm, width, factor = group
    larger = {"1.0": "", "share": " 1/share x"}.get(factor, f" {factor}x")
    return f"{arm}{larger}{'' if width == 64 else f', width {width}'}"


def pooled(found: Difference, deviation: float, degrees: int) -> Estimate:
    """Return a difference with the pooled deviation of a run from its arm."""
    return Estimate(
        value=float(found.gains_S.mean()),
        world_error=deviation * (2 / len(found.gains_S)) ** 0.5,
        degrees=degrees,
        concept_error=found.concepts_error,
        num_concepts=NUM_CONCEPTS,
    )


def row(pair: Pair, measure: str, found: Difference, estimate: Estimate, adjusted_p: float) -> list[str]:
    """Return the cells of a difference in points; a star: 0 is outside of the interval, also after Holm."""
    first, second = pair
    low, high = estimate.interval(1 - LEVEL)
    star = " *" if adjusted_p < LEVEL else ""
    by_seed = ", ".join(f"{100 * gain:+.1f}" for gain in found.gains_S)
    mean = 100 * estimate.value
    bounds = f"{100 * low:+.1f} to {100 * high:+.1f}"
    return [f"{label(second)} - {label(first)}", measure, f"{mean:+.1f}{star}", bounds, by_seed]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


# Files


def read_estimates(folder: Path) -> list[tuple[Pair, str, Difference, Estimate, float]]:
    """Return each difference with its pooled estimate and Holm's p."""
    found = list(read_differences(folder))
    deviations = _pooled_deviations(_read_top1(folder / "results.csv"))
    estimates = [pooled(of_pair, *deviations[pair[1][1], measure]) for pair, measure, of_pair in found]
    adjusted = holm([estimate.p_value() for estimate in estimates])
    return [(*of_pair, estimate, p) for of_pair, estimate, p in zip(found, estimates, adjusted, strict=True)]


def _pooled_deviations(top1: dict[tuple[Group, str], dict[int, float]]) -> dict[tuple[int, str], tuple[float, int]]:
    """Return {(width, measure): (sd of a run around the mean of its arm, degrees of freedom)}."""
    rests: dict[tuple[int, str], list[float]] = {}
    arms: dict[tuple[int, str], int] = {}
    for ((_, width, _), measure), by_seed in top1.items():
        values = np.array(list(by_seed.values()))
        rests.setdefault((width, measure), []).extend((values - values.mean()).tolist())
        arms[width, measure] = arms.get((width, measure), 0) + 1
    degrees = {key: len(of_key) - arms[key] for key, of_key in rests.items()}
    return {
        key: (float((np.square(of_key).sum() / degrees[key]) ** 0.5), degrees[key]) for key, of_key in rests.items()
    }


def read_differences(folder: Path) -> Iterator[tuple[Pair, str, Difference]]:
    """Yield each difference of concept_intervals.csv with the gains by seed that results.csv has."""
    top1 = _read_top1(folder / "results.csv")
    with open(folder / "concept_intervals.csv", encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            first, second = (
                (record[f"{side}_arm"], int(record[f"{side}_width"]), record[f"{side}_factor"])
                for side in ("first", "second")
            )
            measure = record["measure"]
            seeds = sorted(top1[first, measure].keys() & top1[second, measure].keys())
            gains_S = np.array([top1[second, measure][seed] - top1[first, measure][seed] for seed in seeds])
            width = float(record["high"]) - float(record["low"])
            yield (first, second), measure, Difference(gains_S, width / 2 / NORMAL_QUANTILE)


def _read_top1(path: Path) -> dict[tuple[Group, str], dict[int, float]]:
    """Return {(group, measure): {seed: top-1}}; `others` is the plain mean over the languages beside English."""
    values: dict[tuple[Group, str], dict[int, list[float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            group = (record["arm"], int(record["width"]), record["factor"])
            measure = MEASURES[0] if record["lang"] == "en" else MEASURES[1]
            by_seed = values.setdefault((group, measure), {})
            by_seed.setdefault(int(record["seed"]), []).append(float(record["top1"]))
    return {
        key: {seed: float(np.mean(of_seed)) for seed, of_seed in by_seed.items()} for key, by_seed in values.items()
    }


def write_concept_intervals(path: Path, found: Sequence[tuple[Pair, str, Difference]]) -> None:
    """Write the 95% intervals over concepts, with the seeds fixed, as shares."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        sides = [f"{side}_{key}" for side in ("first", "second") for key in ("arm", "width", "factor")]
        writer.writerow([*sides, "measure", "low", "high"])
        for (first, second), measure, of_pair in found:
            half = NORMAL_QUANTILE * of_pair.concepts_error
            mean = float(of_pair.gains_S.mean())
            writer.writerow([*first, *second, measure, f"{mean - half:.4f}", f"{mean + half:.4f}"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of results.csv and concept_intervals.csv")
    folder = parser.parse_args(arguments).folder
    print(table(HEADER, [row(*found) for found in read_estimates(folder)]), end="")


if __name__ == "__main__":
    main()
