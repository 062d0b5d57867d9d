"""Draw the training curves of both initial weights on the emoji pool, and compare what they reach.

    for seed in 0 1 2; do for init in scaled reference; do
      worldclip run recipes/emoji.toml --until evaluate --out RUNS/${init}_$seed \\
        --set train.model.init=\\"$init\\" --set train.seed=$seed
    done; done
    python benchmarks/initial_weights.py RUNS --chart docs/initial_weights.svg > benchmarks/results/initial_weights.md
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.report.chart import Line, line_chart, svg_file
from worldclip.report.table import Table, columns_of, text_column, to_markdown

COLOURS = {"scaled": "var(--s1)", "reference": "var(--s2)"}
STEPS_SHOWN = (40, 200, 400, 600, 800, 1_000, 1_200, 1_320)
STEPS_PER_POINT = 40  # the loss of single batches is noisy; a point is the mean of four logged steps
CHART_PX = (560, 260)


def read_losses(run: Path) -> dict[int, float]:
    """Return {step: mean of the losses that log.jsonl has of the STEPS_PER_POINT steps up to it}."""
    records = [json.loads(line) for line in (run / "train/log.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = {record["step"]: record["loss"] for record in records if "loss" in record}
    points: dict[int, list[float]] = {}
    for step, loss in losses.items():
        points.setdefault(-(-step // STEPS_PER_POINT) * STEPS_PER_POINT, []).append(loss)
    return {step: float(np.mean(of_point)) for step, of_point in points.items()}


def read_metrics(run: Path, dataset: str) -> dict[str, float]:
    """Return the means over languages of a dataset's zero-shot classification."""
    report = json.loads((run / "evaluate/report.json").read_text(encoding="utf-8"))
    metrics: dict[str, float] = report["datasets"][dataset]["tasks"]["zeroshot_classification"]["mean"]["metrics"]
    return metrics


def write_chart(path: Path, curves: dict[tuple[str, int], dict[int, float]]) -> None:
    lines = [
        Line(name=f"{init}, seed {seed}", x=list(losses), y=list(losses.values()), colour=COLOURS[init])
        for (init, seed), losses in curves.items()
    ]
    chart = line_chart(lines, x_label="step", y_label="loss", size_px=CHART_PX)
    legend = [(colour, init) for init, colour in COLOURS.items()]
    text = svg_file(chart, "Contrastive loss by step, one line per seed", legend, CHART_PX)
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="folder of the runs INIT_SEED")
    parser.add_argument("--chart", type=Path, help="file for the curves")
    options = parser.parse_args(arguments)
    runs = sorted((*path.name.rsplit("_", 1), path) for path in options.runs.glob("*_*") if path.is_dir())
    curves = {(init, int(seed)): read_losses(path) for init, seed, path in runs}
    if options.chart is not None:
        write_chart(options.chart, curves)
    rows: list[list[Any]] = []
    for init, seed, path in runs:
        losses = curves[init, int(seed)]
        tone, base = (read_metrics(path, dataset) for dataset in ("emoji_tone", "emoji_base"))
        accuracies = [f"{100 * metrics[name]:.1f}" for metrics in (tone, base) for name in ("acc1", "acc5")]
        rows.append([init, seed, *(f"{losses[step]:.3f}" for step in STEPS_SHOWN), *accuracies])
    columns = [text_column("init"), text_column("seed"), *columns_of([f"step {step:,}" for step in STEPS_SHOWN])]
    columns += columns_of(["tone top-1", "top-5", "base top-1", "top-5"])
    print("# Initial weights\n")
    print(
        f"{date.today()}, {platform.machine()}, torch {version('torch')}. `recipes/emoji.toml` with `train.model.init` "
        "and `train.seed`, all else equal, on two shared CPU cores. Loss: mean of the four logged steps up to the "
        "step. Accuracy: percent, mean over 14 languages.\n"
    )
    print(to_markdown(Table(columns, rows)))


if __name__ == "__main__":
    main()
