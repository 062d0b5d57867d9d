"""Make docs/photographs/tables.md from the committed hits, in seconds and without training.

    python examples/photographs/claims_table.py docs/photographs/hits
    python examples/photographs/claims_table.py docs/photographs/hits --page docs/photographs/tables.md

Nobody looks before: there is no table while a run is missing.  How a contrast is judged is the other ablation's
(examples/ablation/contrasts.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.evaluate.compare import holm

sys.path.insert(0, str(Path(__file__).parents[1] / "ablation"))

import contrasts
from contrasts import Estimate, Table
from page_tables import percent, show_relative, to_markdown

SEEDS = (1, 2, 3)
POOLS = {
    "flat": ("worldwide_w128", "worldwide_w64", "english_w128", "english_w64"),
    "tail": ("own_t", "one_t", "every_match", "raw"),
}
MEASURES = ("English", "others", "English, head", "English, tail", "others, head", "others, tail")
# Each claim: second against first in a measure.
PLANNED = (
    ("a", "raw", "own_t", "English"),
    ("a", "raw", "own_t", "others"),
    ("b", "english_w64", "worldwide_w64", "English"),
    ("b", "english_w128", "worldwide_w128", "English"),
    ("c", "own_t", "one_t", "English"),
    ("c", "own_t", "one_t", "others"),
    ("c", "own_t", "one_t", "others, tail"),
    ("d", "every_match", "own_t", "English, tail"),
    ("d", "every_match", "own_t", "others, tail"),
    ("d", "every_match", "own_t", "English, head"),
    ("d", "every_match", "own_t", "others, head"),
    ("d", "every_match", "own_t", "English"),
    ("d", "every_match", "own_t", "others"),
)
BEGIN = "<!-- written by examples/photographs/claims_table.py -->\n"
END = "<!-- end of the tables -->\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run's file: L languages, English first, and C classes."""

    record: dict[str, Any]
    right_LC: np.ndarray
    """Share of the test photographs of a class whose name in the language is found."""
    is_named_LC: np.ndarray
    is_withheld_LC: np.ndarray
    is_alike_LC: np.ndarray
    number_C: np.ndarray
    classes: np.ndarray

    def weights(self, measure: str) -> np.ndarray:
        """Return (L, C) that sum to 1: equal weight for the classes of a part, then for the languages."""
        langs, _, part = measure.partition(", ")
        is_asked = self.is_named_LC & ~self.is_withheld_LC
        rows = slice(0, 1) if langs == "English" else slice(1, None)
        order = np.argsort(-self.number_C, kind="stable")
        third = len(order) // 3
        in_part = np.ones(len(order), bool)
        if part:
            in_part[:] = False
            in_part[order[:third] if part == "head" else order[-third:]] = True
        mask = is_asked[rows] & in_part
        weights = np.zeros(self.right_LC.shape)
        weights[rows] = mask / mask.sum(axis=1, keepdims=True) / len(mask)
        return weights


def read_run(path: Path) -> Run:
    with np.load(path) as arrays:
        class_of_image = arrays["class_of_image"]
        hits = np.unpackbits(arrays["hits"], axis=1, count=len(class_of_image)).astype(bool)
        num_classes = len(arrays["classes"])
        right = np.array([np.bincount(class_of_image, weights=of_lang, minlength=num_classes) for of_lang in hits])
        return Run(
            record=json.loads(str(arrays["record"])),
            right_LC=right / np.bincount(class_of_image, minlength=num_classes),
            is_named_LC=arrays["is_named"],
            is_withheld_LC=arrays["is_withheld"],
            is_alike_LC=arrays["is_alike"],
            number_C=arrays["number"],
            classes=arrays["classes"],
        )


Runs = Mapping[str, Sequence[Run]]


def tabulate(runs: Runs, arms: Sequence[str], measure: str) -> Table:
    """Collect a measure of the runs of some arms of one pool by arm and seed."""
    parts = {}
    for arm in arms:
        parts[arm] = [(run.weights(measure) * run.right_LC).sum(axis=0) for run in runs[arm]]
    some = runs[arms[0]]
    return Table(
        arms=tuple(arms),
        accuracy_AW=np.array([[part.sum() for part in parts[arm]] for arm in arms]),
        parts=parts,
        weights=[run.weights(measure).sum(axis=0) for run in some],
        concepts=[run.classes for run in some],
    )


def contrast_table(runs: Runs) -> str:
    estimates = []
    for _, first, second, measure in PLANNED:
        arms = next(arms for arms in POOLS.values() if first in arms)
        estimates.append(contrasts.estimate(tabulate(runs, arms, measure), first, second, is_log=True))
    adjusted = holm([estimate.p_value() for estimate in estimates])
    rows = []
    for (claim, first, second, measure), estimate, p in zip(PLANNED, estimates, adjusted, strict=True):
        rows.append([claim, f"{second} against {first}", measure, *judged(estimate, p)])
    header = ["claim", "contrast", "in", "difference", "95%", "90%", "Holm's p", "verdict"]
    return to_markdown(header, rows)


def judged(estimate: Estimate, p: float) -> list[str]:
    return [
        show_relative(estimate.value),
        " to ".join(map(show_relative, estimate.interval(0.95))),
        " to ".join(map(show_relative, estimate.interval(0.90))),
        f"{p:.3f}" if p >= 0.001 else "< 0.001",
        contrasts.verdict(estimate, p, is_log=True),
    ]


def change_line(runs: Runs) -> str:
    """Return the change of claim b between the widths, a planned look that is not in the family."""
    first = tabulate(runs, ("english_w64", "worldwide_w64"), "English")
    second = tabulate(runs, ("english_w128", "worldwide_w128"), "English")
    rename = {"english_w64": "english_w128", "worldwide_w64": "worldwide_w128"}
    first = Table(
        arms=second.arms,
        accuracy_AW=first.accuracy_AW,
        parts={rename[arm]: parts for arm, parts in first.parts.items()},
        weights=first.weights,
        concepts=first.concepts,
    )
    change = contrasts.change([first, second], "english_w128", "worldwide_w128")
    low, high = change.interval(0.95)
    return (
        f"From width 64 to 128 the gain of worldwide over English alone changes by {show_relative(change.value)} "
        f"(95% interval {show_relative(low)} to {show_relative(high)}).\n"
    )


def withheld_table(runs: Runs) -> str:
    """Return claim e: names that no caption of the language says, by whether another language spells them the same."""
    rows = []
    for arm in ("worldwide_w128", "worldwide_w64"):
        for title, is_chosen in (
            ("spelt alike in a language that says it", lambda run: run.is_withheld_LC & run.is_alike_LC),
            ("spelt so in no other language", lambda run: run.is_withheld_LC & ~run.is_alike_LC),
            ("names that captions say, of the same 20 languages", lambda run: ~run.is_withheld_LC & run.is_named_LC),
        ):
            ratios = []
            accuracies = []
            num_names = 0
            for run in runs[arm]:
                mask = is_chosen(run)
                mask[0] = False
                num_names += int(mask.sum())
                chance_L1 = 1 / run.is_named_LC.sum(axis=1, keepdims=True)
                for column in np.flatnonzero(mask.any(axis=0)):
                    of_class = mask[:, column]
                    accuracies.append(run.right_LC[of_class, column].mean())
                    ratios.append(accuracies[-1] / chance_L1[of_class].mean())
            error = 2 * np.std(ratios, ddof=1) / len(ratios) ** 0.5
            interval = f"{np.mean(ratios) - error:.1f} to {np.mean(ratios) + error:.1f}"
            mean = percent(float(np.mean(accuracies)))
            rows.append([arm, title, f"{num_names:,}", mean, f"{np.mean(ratios):.1f}", interval])
    return to_markdown(["arm", "names", "number", "accuracy, %", "times chance", "+- 2 standard errors"], rows)


def arm_table(runs: Runs) -> str:
    rows = []
    for pool, arms in POOLS.items():
        for arm in arms:
            records = [run.record for run in runs[arm]]
            shares = [100 * np.mean([record[name] for record in records]) for name in ("english_share", "noise_share")]
            row = [pool, arm, f"{records[0]['samples']:,}", f"{np.mean([record['pairs'] for record in records]):,.0f}"]
            row += [f"{share:.1f}" for share in shares]
            for measure in MEASURES:
                if pool == "flat" and ", " in measure:  # its classes have equal numbers
                    row.append("")
                    continue
                means = [(run.weights(measure) * run.right_LC).sum() for run in runs[arm]]
                row.append(percent(float(np.mean(means))))
            rows.append(row)
    return to_markdown(["pool", "arm", "samples", "pairs", "English pairs, %", "noise, %", *MEASURES], rows)


def tables(folder: Path) -> str:
    """Return all tables, or a line that says how many runs are missing."""
    arms = [arm for of_pool in POOLS.values() for arm in of_pool]
    paths = {arm: [folder / f"{arm}_s{seed}.npz" for seed in SEEDS] for arm in arms}
    missing = [path.name for of_arm in paths.values() for path in of_arm if not path.exists()]
    if missing:
        return f"{len(missing)} of {len(arms) * len(SEEDS)} runs are missing: no table yet.\n"
    runs = {arm: [read_run(path) for path in of_arm] for arm, of_arm in paths.items()}
    records = [run.record for of_arm in runs.values() for run in of_arm]
    hours = sum(record["cpu_s"] for record in records) / 3_600
    revisions = sorted({record["revision"][:8] for record in records})
    cost = f"{len(records)} runs, {hours:.1f} CPU-hours, revision {', '.join(revisions)}.\n"
    parts = [cost, arm_table(runs), contrast_table(runs), change_line(runs), withheld_table(runs)]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of the hits")
    parser.add_argument("--page", type=Path, help="the page whose tables are renewed")
    options = parser.parse_args()
    if options.page:
        page = options.page.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        options.page.write_text(f"{before}{BEGIN}\n{tables(options.folder)}\n{END}{after}", encoding="utf-8")
        return
    print(tables(options.folder))


if __name__ == "__main__":
    main()
