"""Tables and plots of what run.py left: the spread over seeds, and intervals over seeds and concepts.

    python examples/ablation/analyse.py --out runs/ablation --docs docs/ablation

A number of an arm is the mean over its seeds of top-1 among the 600 names, each concept with equal weight; `others` is
the mean over the 13 languages beside English.  A difference of two arms is paired: the same seeds, the same pictures;
its interval is that of intervals.py.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import arms
import intervals
import world as the_world
from intervals import Group, label, table

from worldclip.core.artifacts import read_json, write_text
from worldclip.pool.emoji import LANGS

PARTS = ("head", "middle", "tail")
ENGLISH_COLOUR, OTHERS_COLOUR = "#1f5fa8", "#c8552b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training: its record, and how often each concept was found in each language."""

    record: dict[str, Any]
    hits_LC: np.ndarray
    """(languages, concepts) float64: share of a concept's pictures whose name came first."""


Groups = dict[Group, dict[int, Run]]
"""The finished runs by group and seed."""


def read_runs(out: Path) -> Groups:
    found: Groups = {}
    for path in sorted((out / "results").glob("*/run.json")):
        name = path.parent.name
        arm, width, seed = name.rsplit("_", 2)
        arm, _, factor = arm.partition("_x")
        ranks = [np.load(path.parent / f"ranks/world/{lang}/zeroshot_classification.acc.npy") for lang in LANGS]
        hits = (np.stack(ranks) == 0).reshape(len(LANGS), the_world.NUM_CONCEPTS, the_world.NUM_RENDERINGS)
        run = Run(record=read_json(path), hits_LC=hits.mean(axis=2))
        found.setdefault((arm, int(width[1:]), factor or "1.0"), {})[int(seed[1:])] = run
    return found


def english(hits_LC: np.ndarray) -> np.ndarray:
    """(concepts,)"""
    return hits_LC[LANGS.index("en")]


def others(hits_LC: np.ndarray) -> np.ndarray:
    return np.delete(hits_LC, LANGS.index("en"), axis=0).mean(axis=0)


def everywhere(hits_LC: np.ndarray) -> np.ndarray:
    return hits_LC.mean(axis=0)


Measure = Callable[[np.ndarray], np.ndarray]
MEASURES: dict[str, Measure] = {"English": english, "others": others}


def by_seed(runs: dict[int, Run], measure: Measure, concepts: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(seeds,) mean over the concepts."""
    return np.array([measure(run.hits_LC)[concepts].mean() for _, run in sorted(runs.items())])


def thirds(world: the_world.World, runs: dict[int, Run], langs: Sequence[str]) -> dict[str, float]:
    """Mean over seeds and languages of each third of the language's own concepts."""
    found = {}
    for number, part in enumerate(PARTS):
        values = [
            run.hits_LC[LANGS.index(lang)][world.third(lang) == number].mean()
            for run in runs.values()
            for lang in langs
        ]
        found[part] = float(np.mean(values))
    return found


def difference(first: dict[int, Run], second: dict[int, Run], measure: Measure) -> intervals.Difference:
    """second - first over the seeds that both have."""
    seeds = sorted(set(first) & set(second))
    gains = [measure(second[seed].hits_LC) - measure(first[seed].hits_LC) for seed in seeds]
    return intervals.difference(np.stack(gains))


Found = list[tuple[intervals.Pair, str, intervals.Difference]]


def differences(runs: Groups, pairs: Sequence[intervals.Pair]) -> Found:
    """Each pair's difference in each measure."""
    return [
        ((first, second), name, difference(runs[first], runs[second], measure))
        for first, second in pairs
        for name, measure in MEASURES.items()
    ]


# Tables


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def spread(values: np.ndarray) -> str:
    """Mean, and the seeds' least and most where there are several."""
    mean = percent(float(values.mean()))
    return mean if len(values) == 1 else f"{mean} ({percent(values.min())}-{percent(values.max())})"


def list_table(runs: Groups, groups: Sequence[Group]) -> str:
    """What the lists held before any training, seed 0 (the seeds differ in the coin alone)."""
    header = ["list", "t_en", "pairs kept", "English", "noise", "effective concepts", "in English", "in others"]
    rows = []
    for group in groups:
        run = runs[group][min(runs[group])].record
        known = run["list"]
        threshold = "-" if run["english_threshold"] is None else str(run["english_threshold"])
        varied = [f"{known[f'effective_concepts{part}']:.0f}" for part in ("", "_english", "_others")]
        rows.append([group[0], threshold, f"{known['pairs']:,}", percent(known["english_share"]),
                     percent(known["noise_share"]), *varied])  # fmt: skip
    return table(header, rows)


def result_table(world: the_world.World, runs: Groups, groups: Sequence[Group]) -> str:
    header = [
        "arm",
        "seeds",
        "samples",
        "batch",
        "English",
        "head/mid/tail",
        "flags",
        "others",
        "head/mid/tail",
        "flags",
    ]
    rows = []
    for group in groups:
        of = runs[group]
        record = next(iter(of.values())).record
        cells = [label(group), str(len(of)), f"{record['samples_seen']:,}", str(record["batch"])]
        for measure, langs in ((english, ["en"]), (others, [lang for lang in LANGS if lang != "en"])):
            parts = "/".join(percent(value) for value in thirds(world, of, langs).values())
            cells += [spread(by_seed(of, measure)), parts, percent(float(by_seed(of, measure, world.is_flag).mean()))]
        rows.append(cells)
    return table(header, rows)


def language_table(runs: Groups, groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        mean_LC = np.mean([run.hits_LC for run in runs[group].values()], axis=0)
        rows.append([label(group), *(percent(value) for value in mean_LC.mean(axis=1))])
    return table(["arm", *LANGS], rows)


def write_csv(path: Path, world: the_world.World, runs: Groups) -> None:
    """One row a run and language."""
    of_run = ("samples_seen", "batch", "steps", "loss", "samples_per_s", "pairs")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "width", "factor", "seed", *of_run, "lang", "top1", *PARTS, "flags"])
    for group, of in sorted(runs.items()):
        for seed, run in sorted(of.items()):
            known = [round(run.record[key], 4) for key in of_run]
            for row, lang in enumerate(LANGS):
                hits, third = run.hits_LC[row], world.third(lang)
                values = [hits, *(hits[third == number] for number in range(3)), hits[world.is_flag]]
                writer.writerow([*group, seed, *known, lang, *(f"{value.mean():.4f}" for value in values)])
    write_text(path, file.getvalue())


# Plots


def plot(path: Path, title: str, runs: Groups, groups: Sequence[Group], names: Sequence[str]) -> None:
    """English and the others of each group: the mean as a bar, each seed as a dot."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "worldclip"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(1.2 + 0.95 * len(groups), 3.2))
    for place, (name, measure, colour) in enumerate(
        (("English", english, ENGLISH_COLOUR), ("13 others, mean", others, OTHERS_COLOUR))
    ):
        at = np.arange(len(groups)) + (place - 0.5) * 0.38
        values = [100 * by_seed(runs[group], measure) for group in groups]
        axis.bar(at, [value.mean() for value in values], 0.36, color=colour, alpha=0.75, label=name)
        for x, value in zip(at, values, strict=True):
            axis.plot(np.full(len(value), x), value, "o", color="black", markersize=2.5)
    axis.set_xticks(np.arange(len(groups)), names, fontsize=8)
    axis.set_ylabel("top-1 among 600 names, %", fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


# The whole

CURATION = [(arm.name, 64, "1.0") for arm in arms.CURATION]
SIZES = [("english", "1.0"), ("non_english", "1.3"), ("worldwide", "1.0"), ("worldwide", "share"), ("english", "share")]
SIZE_NAMES = ["English\n1.0x", "non-\nEnglish\n1.3x", "worldwide\n1.0x", "worldwide\n1/share x", "English\n1/share x"]
TAIL = [(name, 64, "1.0") for name in ("p02", "worldwide", "p12", "p25")]
LID = [(name, 64, "1.0") for name in ("worldwide", "true_language")]


def against(first: Group, groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    return [(first, group) for group in groups if group != first]


Section = tuple[str, str, list[Group], list[tuple[Group, Group]], list[str]]
"""File, title, groups, differences, names on the plot."""


def sections(runs: Groups) -> list[Section]:
    """Each part, as far as it has been run."""
    there = [group for group in CURATION if group in runs]
    named = {"raw": "raw", "english": "English\nonly", "english_list": "English\nlist", "merged": "merged\nt_en",
             "same_t": "isolated\nt_en", "worldwide": "isolated\nown t"}  # fmt: skip
    found = [("curation", "Curation, equal samples", there, against(("worldwide", 64, "1.0"), there),
              [named[group[0]] for group in there])]  # fmt: skip
    for width in arms.WIDTHS:
        groups = [(arm, width, factor) for arm, factor in SIZES]
        there = [group for group in groups if group in runs]
        pairs = [(groups[0], groups[2]), (groups[0], groups[3]), (groups[4], groups[3]), (groups[0], groups[4]),
                 (groups[1], groups[3])]  # fmt: skip
        pairs = [pair for pair in pairs if pair[0] in runs and pair[1] in runs]
        names = [SIZE_NAMES[groups.index(group)] for group in there]
        found.append((f"curse_w{width}", f"More languages, more samples: width {width}", there, pairs, names))
    there = [group for group in TAIL if group in runs]
    names = [f"p = {arm}" for arm in ("2%", "6%", "12%", "25%")]
    found.append(("tail", "Tail fraction, equal samples", there, against(("worldwide", 64, "1.0"), there),
                  [names[TAIL.index(group)] for group in there]))  # fmt: skip
    there = [group for group in LID if group in runs]
    found.append(("lid", "Language by LID or known", there, against(LID[0], there), ["LID", "known"][: len(there)]))
    return [part for part in found if part[2]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--docs", type=Path, help="folder of plots and results.csv; default OUT/report")
    asked = parser.parse_args(arguments)
    folder = asked.docs or asked.out / "report"
    world, runs = the_world.read_world(asked.out / "world"), read_runs(asked.out)
    lists = {arm.name: (arm.name, 64, "1.0") for arm in arms.ARMS}
    everything: Found = []
    parts = [list_table(runs, [group for group in lists.values() if group in runs])]
    for name, title, groups, pairs, names in sections(runs):
        plot(folder / f"{name}.svg", title, runs, groups, names)
        found = differences(runs, pairs)
        everything += found
        rows = [intervals.row(*of_pair) for of_pair in found]
        parts += [f"\n## {title}\n", result_table(world, runs, groups), table(intervals.HEADER, rows),
                  language_table(runs, groups)]  # fmt: skip
    write_csv(folder / "results.csv", world, runs)
    intervals.write_concept_intervals(folder / "concept_intervals.csv", everything)
    write_text(folder / "tables.md", "\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
