"""Make docs/ablation/tables.md from the committed hits, in less than a minute and without training.

    python examples/ablation/page_tables.py docs/ablation/hits
    python examples/ablation/page_tables.py docs/ablation/hits --page docs/ablation/tables.md

An experiment whose runs are not all there has no table: nobody looks before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worldclip.evaluate.compare import holm

sys.path.insert(0, str(Path(__file__).parent))

import contrasts
from contrasts import Estimate, Measure, Table
from forest import Row, forest_svg
from hits import Hits, read_hits
from plan import ARMS, EXPERIMENTS, WORLDS, names, run_name

ENGLISH, OTHERS, ALL = (0,), tuple(range(1, 14)), tuple(range(14))
PARTS = ("", ", head", ", tail", ", flags", ", seldom_in_english")
IN_ENGLISH, IN_OTHERS = (
    {
        **{f"{name}{part}": Measure(langs=langs, part=part.removeprefix(", ") or "all") for part in PARTS},
        f"{name}, top-5": Measure(langs=langs, top=5),
    }
    for name, langs in (("English", ENGLISH), ("others", OTHERS))
)
IN_NATURAL = {
    "base": Measure(langs=ALL, set_name="base", top=5),
    "base, head": Measure(langs=ALL, set_name="base", top=5, part="head"),
    "base, tail": Measure(langs=ALL, set_name="base", top=5, part="tail"),
    "tone": Measure(langs=ALL, set_name="tone", top=5),
    "another artist": Measure(langs=ALL, set_name="artist", top=5),
    "base in English": Measure(langs=ENGLISH, set_name="base", top=5),
    "base in others": Measure(langs=OTHERS, set_name="base", top=5),
}
IN_NATURAL_TOP1 = {f"{name}, top-1": replace(measure, top=1) for name, measure in IN_NATURAL.items()}
MEASURES = IN_ENGLISH | IN_OTHERS | IN_NATURAL
TITLES = {
    "pilots": "Pilots",
    "pairs": "Which pairs",
    "languages": "What other languages give",
    "natural": "A natural pool",
}
BEGIN, END = "<!-- {}: written by examples/ablation/page_tables.py -->", "<!-- end of {} -->"
Runs = dict[str, Hits]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A planned question: `second` against `first` in a measure at a width, or its change between two widths."""

    first: str
    second: str
    measure: str
    widths: tuple[int, ...]
    in_points: bool = False
    """Judged in points: the measure has few pictures."""

    @property
    def name(self) -> str:
        return f"{self.second} against {self.first}, width {' to '.join(map(str, self.widths))}"


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def planned(experiment: str) -> list[Contrast]:
    """The contrasts of docs/ablation/expectations.md."""
    both = ("English", "others")
    if experiment == "natural":
        asked = [
            ("every_pair", "p", measure) for measure in ("base", "base, tail", "base, head", "tone", "another artist")
        ]
        asked += [("p", "one_t", measure) for measure in ("base", "tone")]
        asked += [("p", "english_list", measure) for measure in ("base in English", "base in others")]
        return [
            Contrast(first=first, second=second, measure=measure, widths=(128,)) for first, second, measure in asked
        ]
    if experiment == "pairs":
        asked = [("raw_clean", "own_t_clean", f"{lang}{part}") for part in (", tail", ", head", "") for lang in both]
        for first, second in (("raw", "raw_clean"), ("own_t", "own_t_clean"), ("raw", "own_t"), ("own_t", "one_t"),
                              ("own_t", "merged")):  # fmt: skip
            asked += [(first, second, lang) for lang in both]
        return [Contrast(first=first, second=second, measure=measure, widths=(64,)) for first, second, measure in asked]
    found = []
    for width in ARMS["languages"]:
        for first, second in (("m1", "m2"), ("m0", "m1"), ("m0", "m3"), ("m4", "m2")):
            found.append(Contrast(first=first, second=second, measure="English", widths=(width,)))
        found.append(Contrast(first="m1", second="m2", measure="English, flags", widths=(width,)))
        found.append(
            Contrast(first="m1", second="m2", measure="English, seldom_in_english", widths=(width,), in_points=True)
        )
    found.append(Contrast(first="m0", second="m3", measure="English", widths=(32, 128)))
    found += [Contrast(first=first, second=second, measure="others", widths=(128,))
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


def arms_of(runs: Runs, experiment: str) -> Iterator[tuple[int, str, list[Hits]]]:
    """Yield width, arm and its runs, one for each world."""
    for width, arms in ARMS[experiment].items():
        for arm in arms:
            yield width, arm, [runs[run_name(experiment, arm, width, seed)] for seed in WORLDS[experiment]]


def tabulate(runs: Runs, experiment: str, width: int, measure: str) -> Table:
    """Collect a measure of the runs by arm and world."""
    arms, of_measure = arms_with(experiment, width, measure), MEASURES[measure]
    found = {
        arm: [run.sets[of_measure.set_name] for run in of_arm]
        for of_width, arm, of_arm in arms_of(runs, experiment)
        if of_width == width and arm in arms
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
    tables = [tabulate(runs, experiment, width, contrast.measure) for width in contrast.widths]
    if len(tables) > 1:
        return contrasts.change(tables, contrast.first, contrast.second)
    return contrasts.estimate(tables[0], contrast.first, contrast.second, is_log=not contrast.in_points)


# Tables


def contrast_table(runs: Runs, experiment: str) -> str:
    asked = planned(experiment)
    found = [estimate(runs, experiment, contrast) for contrast in asked]
    adjusted = holm([each.p_value() for each in found])
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


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def points(runs: Runs, experiment: str, contrast: Contrast) -> str:
    """The mean difference in points; of a change, at each width."""
    shown = []
    for width in contrast.widths:
        table = tabulate(runs, experiment, width, contrast.measure)
        means = dict(zip(table.arms, table.accuracy_AW.mean(axis=1), strict=True))
        shown.append(f"{100 * (means[contrast.second] - means[contrast.first]):+.1f}")
    return ", ".join(shown)


def list_table(runs: Runs, experiment: str) -> str:
    """Return the table of what each arm trains on: means over worlds."""
    rows = []
    for width, arm, of_arm in arms_of(runs, experiment):
        lists = [run.record["list"] for run in of_arm]
        pairs = [sum(counts["langs"].values()) for counts in lists]
        english = [counts["langs"].get("en", 0) / number for counts, number in zip(lists, pairs, strict=True)]
        noise = [counts["noise_share"] for counts in lists if "noise_share" in counts]
        shares = [percent(float(np.mean(english))), percent(float(np.mean(noise))) if noise else "not known"]
        samples = of_arm[0].record["samples"]
        rows.append([arm, str(width), str(len(of_arm)), f"{samples:,}", f"{np.mean(pairs):,.0f}", *shares])
    return to_markdown(["arm", "width", "runs", "samples", "pairs", "English pairs, %", "noise, %"], rows)


def accuracy_table(runs: Runs, experiment: str, measures: dict[str, Measure]) -> str:
    """Return the table of each arm's mean accuracy over worlds, in percent."""
    rows = []
    for width, arm, of_arm in arms_of(runs, experiment):
        cells = [arm, str(width)]
        for measure in measures.values():
            accuracies = [measure.parts(run.sets[measure.set_name]).sum() for run in of_arm]
            cells.append(percent(float(np.mean(accuracies))))
        rows.append(cells)
    return to_markdown(["arm", "width", *measures], rows)


def residual_table(runs: Runs, experiment: str) -> str:
    """What neither arm nor world explains, relative and in points."""
    rows = []
    for width in ARMS[experiment]:
        for measure in ("base", "tone") if experiment == "natural" else ("English", "others"):
            if len(arms_with(experiment, width, measure)) > 1:
                table = tabulate(runs, experiment, width, measure)
                (relative, degrees), (in_points, _) = table.residual(is_log=True), table.residual(is_log=False)
                rows.append([measure, str(width), percent(relative) + "%", f"{100 * in_points:.2f}", str(degrees)])
    return to_markdown(["residual sd in", "width", "relative", "points", "degrees of freedom"], rows)


def pilot_table(runs: Runs) -> str:
    rows = []
    for run in runs.values():
        by_lang = run.sets["test"].top1_LCR.mean(axis=(1, 2))
        values = [float(by_lang[0]), float(by_lang[1:].mean())]
        keys = [str(run.record["width"]), str(run.record["batch"]), f"{run.record['rate']:g}"]
        rows.append([*keys, f"{run.record['samples']:,}", *map(percent, values), percent(sum(values) / 2)])
    return to_markdown(["width", "batch", "rate", "samples", "English", "others", "mean"], rows)


def read_runs(experiment: str, folder: Path) -> tuple[Runs, int]:
    """Return the runs of an experiment that left hits, and the number of those that did not."""
    paths = {name: folder / f"{name}.npz" for name in names(experiment)}
    runs = {name: read_hits(path) for name, path in paths.items() if path.exists()}
    return runs, len(paths) - len(runs)


def tables(experiment: str, folder: Path) -> str:
    """Return all tables of an experiment, or a line that says how many runs are missing."""
    runs, num_missing = read_runs(experiment, folder)
    if num_missing:
        return f"{num_missing} of {len(runs) + num_missing} runs are missing: no table yet.\n"
    hours = sum(run.record["cpu_s"] for run in runs.values()) / 3_600
    processors = sorted({run.record["processor"] for run in runs.values()})
    revisions = sorted({run.record["revision"][:7] for run in runs.values()})
    cost = f"{len(runs)} runs, {hours:.1f} CPU-hours, on {'; '.join(processors)}, revision {', '.join(revisions)}.\n"
    if experiment == "pilots":
        return f"{cost}\n{pilot_table(runs)}"
    groups = [IN_NATURAL, IN_NATURAL_TOP1] if experiment == "natural" else [IN_ENGLISH, IN_OTHERS]
    accuracies = [accuracy_table(runs, experiment, group) for group in groups]
    return "\n".join(
        [
            cost,
            list_table(runs, experiment),
            *accuracies,
            contrast_table(runs, experiment),
            residual_table(runs, experiment),
        ]
    )


def chart(experiment: str, folder: Path) -> str:
    """Return an .svg file of the planned contrasts with their 95% intervals."""
    runs, _ = read_runs(experiment, folder)
    rows = []
    for contrast in planned(experiment):
        if contrast.in_points or len(contrast.widths) > 1:
            continue
        found = estimate(runs, experiment, contrast)
        width = f", width {contrast.widths[0]}" if len(ARMS[experiment]) > 1 else ""
        label = f"{contrast.second} against {contrast.first}{width}: {contrast.measure}".replace("_", " ")
        percents = [100 * float(np.expm1(value)) for value in (found.value, *found.interval(0.95))]
        rows.append(Row(label, *percents, group=contrast.measure.partition(",")[0]))
    return forest_svg(f"{TITLES[experiment]}: differences in percent, 95% intervals", rows)


def renew(page: str, folder: Path) -> str:
    """Return a page with new tables between its markers.  Raises ValueError for a marker without its end."""
    for experiment in EXPERIMENTS:
        begin, end = f"{BEGIN.format(experiment)}\n", f"{END.format(experiment)}\n"
        if begin in page:
            start = page.index(begin) + len(begin)
            page = page[:start] + tables(experiment, folder) + page[page.index(end, start) :]
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the hits")
    parser.add_argument(
        "--page", type=Path, help="a page whose marked tables are renewed, and the charts beside FOLDER"
    )
    options = parser.parse_args(arguments)
    if options.page:
        options.page.write_text(renew(options.page.read_text(encoding="utf-8"), options.folder), encoding="utf-8")
        for experiment in ARMS:
            (options.folder.parent / f"{experiment}.svg").write_text(
                chart(experiment, options.folder), encoding="utf-8"
            )
        return
    for experiment in EXPERIMENTS:
        print(f"## {TITLES[experiment]}\n\n{tables(experiment, options.folder)}")


if __name__ == "__main__":
    main()
