"""Training curves, and what training had to skip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from worldclip.core.regular_file import read_regular
from worldclip.report.chart import Line, line_chart
from worldclip.report.html import join
from worldclip.report.numbers import count, short
from worldclip.report.page import Card, Section, figure, grid, note

MAX_POINTS = 300  # points per curve: more than a screen shows
CURVES = (  # key of the log, heading, colour
    ("loss", "Loss", "var(--s1)"),
    ("logit_scale", "Logit scale", "var(--s3)"),
    ("lr", "Learning rate", "var(--s5)"),
    ("samples_per_s", "Samples per second", "var(--s4)"),
)

LogRow: TypeAlias = Mapping[str, Any]
"""step, samples_seen, loss (None if it is not finite), and mostly the other keys of CURVES."""


def read_log(path: Path) -> list[LogRow]:
    """Return the rows of RUN/train/log.jsonl, without a last line that is still being written."""
    if not path.exists():
        return []
    lines = read_regular(path).decode().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def cards(log: Sequence[LogRow]) -> list[Card]:
    """Return the samples seen and the last loss."""
    if not log:
        return []
    losses = [row["loss"] for row in log if row["loss"] is not None]
    remark = f"last loss {losses[-1]:.3g}" if losses else "no finite loss"
    return [Card(short(log[-1]["samples_seen"]), "samples seen", remark)]


def sections(report: Mapping[str, Any] | None, log: Sequence[LogRow]) -> list[Section]:
    """Return curves over samples seen; with the report (training is finished), its duration and its faults."""
    if not log:
        return []
    curves = []
    for key, heading, colour in CURVES:
        rows = [row for row in log if row.get(key) is not None]
        if not rows:
            continue
        # Means of equal runs of rows, at most MAX_POINTS of them.
        width = -(-len(rows) // MAX_POINTS)
        x: list[float] = []
        y: list[float] = []
        for start in range(0, len(rows), width):
            part = rows[start : start + width]
            x.append(sum(row["samples_seen"] for row in part) / len(part))
            y.append(sum(row[key] for row in part) / len(part))
        chart = line_chart([Line(name=heading, x=x, y=y, colour=colour)], x_label="samples seen", y_label=heading)
        curves.append(figure(heading, f"last {rows[-1][key]:.4g}", chart))
    lead = f"{short(log[-1]['samples_seen'])} samples seen in {count(log[-1]['step'])} steps."
    notes: list[str] = []
    if report is not None:
        minutes = report["elapsed_s"] / 60
        lead += f" {report['epochs']:.1f} epochs of {count(report['pairs'])} pairs in {minutes:.1f} minutes"
        if report["samples_per_s"]:
            lead += f", {count(report['samples_per_s'])} samples per second"
        lead += "."
        if report["no_image"]:
            notes.append(f"{count(report['no_image'])} kept pairs have no image in the pool and were left out.")
        if report["skipped_steps"]:
            notes.append(f"{count(report['skipped_steps'])} steps were skipped because the loss was not finite.")
        for reason, number in report["bad"].items():
            notes.append(f"{count(number)} draws met an unusable image ({reason}) and were replaced.")
    return [Section("Training", lead, join([grid(curves, "wide"), *map(note, notes)]))]
