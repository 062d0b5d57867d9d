"""Make the tables of docs/ablation.md from the committed hits, in less than a minute and without training.

    python examples/ablation/page_tables.py docs/ablation/hits

An experiment whose runs are not all there has no table: nobody looks before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import contrasts
from contrasts import Estimate, Measure, Table
from hits import Hits, read_hits
from intervals import table as to_markdown
from plan import ARMS, EXPERIMENTS, WORLDS, Training, trainings

ENGLISH, OTHERS = (0,), tuple(range(1, 14))
MEASURES = {
    f"{name}{f', {part}' if part != 'all' else ''}": Measure(name=name, langs=langs, part=part)
    for name, langs in (("English", ENGLISH), ("others", OTHERS))
    for part in ("all", "head", "tail", "flags", "seldom_in_english")
}
TITLES = {"pilots": "Pilots", "pairs": "Which pairs", "languages": "What other languages give"}
Runs = dict[str, Hits]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A planned question: `second` against `first` in a measure at a width, or its change between two widths."""

    first: str
    second: str
    measure: str
    width: int | tuple[int, int]
    in_points: bool = False
    """Judged in points: the measure has few pictures."""

    @property
    def name(self) -> str:
        where = f"{self.width[0]} to {self.width[1]}" if isinstance(self.width, tuple) else str(self.width)
        return f"{self.second} against {self.first}, width {where}"


def planned(experiment: str) -> list[Contrast]:
    """The contrasts of docs/ablation/expectations.md."""
    both = ("English", "others")
    if experiment == "pairs":
        asked = [("raw_clean", "own_t_clean", f"{lang}{part}") for part in (", tail", ", head", "") for lang in both]
        for first, second in (("raw", "raw_clean"), ("own_t", "own_t_clean"), ("raw", "own_t"), ("own_t", "one_t"),
                              ("own_t", "merged")):  # fmt: skip
            asked += [(first, second, lang) for lang in both]
        return [Contrast(first=first, second=second, measure=measure, width=64) for first, second, measure in asked]
    found = []
    for width in ARMS["languages"]:
        for first, second in (("m1", "m2"), ("m0", "m1"), ("m0", "m3"), ("m4", "m2")):
            found.append(Contrast(first=first, second=second, measure="English", width=width))
        found.append(Contrast(first="m1", second="m2", measure="English, flags", width=width))
        found.append(
            Contrast(first="m1", second="m2", measure="English, seldom_in_english", width=width, in_points=True)
        )
    found.append(Contrast(first="m0", second="m3", measure="English", width=(32, 128)))
    found += [Contrast(first=first, second=second, measure="others", width=128)
              for first, second in (("n1", "m2"), ("n0", "n1"))]  # fmt: skip
    return found


def arms_with(experiment: str, width: int, measure: str) -> tuple[str, ...]:
    """The arms that a measure is about: in experiment 2 those with true pairs of its language, or with none else."""
    arms = ARMS[experiment][width]
    if experiment == "languages":
        arms = tuple(
            arm for arm in arms if arm.startswith("m" if measure.startswith("English") else "n") or arm == "m2"
        )
    return arms


def tabulate(runs: Runs, experiment: str, width: int, measure: str) -> Table:
    """Collect a measure of the runs by arm and world."""
    arms, of_measure = arms_with(experiment, width, measure), MEASURES[measure]
    found = {
        arm: [runs[f"{experiment}_{arm}_w{width}_s{seed}"].sets["test"] for seed in WORLDS[experiment]] for arm in arms
    }
    parts = {arm: [of_measure.parts(hits) for hits in of_arm] for arm, of_arm in found.items()}
    some = found[arms[0]]
    return Table(
        arms=arms,
        accuracy_AW=np.array([[part.sum() for part in parts[arm]] for arm in arms]),
        parts=parts,
        weights=[of_measure.weights(hits).sum(axis=0) for hits in some],
        concepts=[hits.concepts for hits in some],
    )


def estimate(runs: Runs, experiment: str, contrast: Contrast) -> Estimate:
    if isinstance(contrast.width, tuple):
        tables = [tabulate(runs, experiment, width, contrast.measure) for width in contrast.width]
        return contrasts.change(tables, contrast.first, contrast.second)
    table = tabulate(runs, experiment, contrast.width, contrast.measure)
    return contrasts.estimate(table, contrast.first, contrast.second, is_log=not contrast.in_points)


# Tables


def contrast_table(runs: Runs, experiment: str) -> str:
    asked = planned(experiment)
    found = [estimate(runs, experiment, contrast) for contrast in asked]
    adjusted = contrasts.holm([each.p_value() for each in found])
    header = ["contrast", "in", "difference", "95%", "90%", "points", "Holm's p", "verdict"]
    rows = []
    for contrast, each, p in zip(asked, found, adjusted, strict=True):
        show = show_points if contrast.in_points else show_relative
        rows.append(
            [
                contrast.name,
                contrast.measure,
                show(each.value),
                " to ".join(map(show, each.interval(0.95))),
                " to ".join(map(show, each.interval(0.90))),
                points(runs, experiment, contrast),
                f"{p:.3f}" if p >= 0.001 else "< 0.001",
                contrasts.verdict(each, p, is_log=not contrast.in_points),
            ]
        )
    return to_markdown(header, rows)


def show_points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def show_relative(value: float) -> str:
    return f"{100 * np.expm1(value):+.1f}%"


def points(runs: Runs, experiment: str, contrast: Contrast) -> str:
    """The mean difference in points; of a change, at each width."""
    widths = contrast.width if isinstance(contrast.width, tuple) else (contrast.width,)
    shown = []
    for width in widths:
        table = tabulate(runs, experiment, width, contrast.measure)
        means = {arm: table.accuracy_AW[row].mean() for row, arm in enumerate(table.arms)}
        shown.append(f"{100 * (means[contrast.second] - means[contrast.first]):+.1f}")
    return ", ".join(shown)


def arm_table(runs: Runs, experiment: str) -> str:
    """Each arm's list and mean accuracies over worlds, in percent, with top-5 of all concepts."""
    header = [
        "arm",
        "width",
        "runs",
        "samples",
        "pairs",
        "noise",
        "English",
        *MEASURES,
        "top-5 English",
        "top-5 others",
    ]
    top5 = [Measure(name=name, langs=langs, top=5) for name, langs in (("English", ENGLISH), ("others", OTHERS))]
    rows = []
    for width, arms in ARMS[experiment].items():
        for arm in arms:
            of_arm = [runs[f"{experiment}_{arm}_w{width}_s{seed}"] for seed in WORLDS[experiment]]
            lists = [run.record["list"] for run in of_arm]
            pairs = np.mean([of_list["pairs"] for of_list in lists])
            noise = np.mean([of_list["noise_share"] for of_list in lists])
            english = np.mean([of_list["langs"].get("en", 0) / of_list["pairs"] for of_list in lists])
            cells = [arm, str(width), str(len(of_arm)), f"{of_arm[0].record['samples']:,}", f"{pairs:,.0f}",
                     percent(noise), percent(english)]  # fmt: skip
            accuracies = [
                np.mean([measure.parts(run.sets["test"]).sum() for run in of_arm])
                for measure in (*MEASURES.values(), *top5)
            ]
            rows.append([*cells, *map(percent, accuracies)])
    return to_markdown(header, rows)


def residual_table(runs: Runs, experiment: str) -> str:
    """What neither arm nor world explains, relative and in points."""
    rows = []
    for width in ARMS[experiment]:
        for measure in ("English", "others"):
            if len(arms_with(experiment, width, measure)) > 1:
                table = tabulate(runs, experiment, width, measure)
                (relative, degrees), (in_points, _) = table.residual(is_log=True), table.residual(is_log=False)
                rows.append([measure, str(width), percent(relative) + "%", f"{100 * in_points:.2f}", str(degrees)])
    return to_markdown(["residual sd in", "width", "relative", "points", "degrees of freedom"], rows)


def pilot_table(runs: Runs) -> str:
    rows = []
    for run in runs.values():
        values = [MEASURES[measure].parts(run.sets["test"]).sum() for measure in ("English", "others")]
        record = run.record
        rows.append([str(record["width"]), str(record["batch"]), f"{record['rate']:g}", f"{record['samples']:,}",
                     *map(percent, values), percent(np.mean(values))])  # fmt: skip
    return to_markdown(["width", "batch", "rate", "samples", "English", "others", "mean"], rows)


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def cost(runs: Runs) -> str:
    """The time and the processors of some runs."""
    hours = sum(run.record["cpu_s"] for run in runs.values()) / 3_600
    processors = sorted({run.record["processor"] for run in runs.values()})
    revisions = sorted({run.record["revision"][:7] for run in runs.values()})
    return f"{len(runs)} runs, {hours:.1f} CPU-hours, on {'; '.join(processors)}, revision {', '.join(revisions)}."


def missing(experiment: str, folder: Path) -> list[Training]:
    return [training for training in trainings(experiment) if not (folder / f"{training.name}.npz").exists()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the hits")
    folder = parser.parse_args(arguments).folder
    for experiment in EXPERIMENTS:
        print(f"## {TITLES[experiment]}\n")
        if absent := missing(experiment, folder):
            print(f"{len(absent)} of {len(trainings(experiment))} runs are missing: no table yet.\n")
            continue
        runs = {training.name: read_hits(folder / f"{training.name}.npz") for training in trainings(experiment)}
        print(f"{cost(runs)}\n")
        if experiment == "pilots":
            print(pilot_table(runs))
        else:
            print(arm_table(runs, experiment))
            print(contrast_table(runs, experiment))
            print(residual_table(runs, experiment))


if __name__ == "__main__":
    main()
