"""Records as files for people and other programs: CSV, LaTeX, suites in Markdown, CLIP_benchmark's JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import write_json, write_text
from worldclip.evaluate.catalog import CATALOG
from worldclip.evaluate.published import AGREES_WITHIN_PCT
from worldclip.evaluate.report import aligned, by_dataset, mean_over_languages, shown
from worldclip.evaluate.suites import AVERAGED, languages_of, suite_mean, suite_rows
from worldclip.evaluate.tasks import LOCAL

Record = dict[str, Any]

CLIP_BENCHMARK_TASKS = {  # our task -> the name that CLIP_benchmark gives it; others keep ours
    "image_text_retrieval": "zeroshot_retrieval",
    "multilabel_classification": "zeroshot_classification",
    "choice": "image_caption_selection",
    "matching": "image_caption_selection",
}
LATEX_SPECIAL = {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "@": "@", "<": r"$<$", ">": r"$>$"}


def csv_text(records: Sequence[Record]) -> str:
    """One row a metric: model, dataset, lang, task, part, metric, value, low, high (95% interval), chance, n."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["model", "dataset", "lang", "task", "part", "metric", "value", "low", "high", "chance", "n"])
    for record in records:
        about = [record["model"], record["dataset"], record["lang"], record["task"]]
        for metric, value in record["metrics"].items():
            low, high = record["interval_95"].get(metric, ("", ""))
            writer.writerow([*about, "", metric, value, low, high, record["chance"].get(metric, ""), record["n"]])
        for part, inner in record.get("slices", {}).items():
            for metric, value in inner["metrics"].items():
                writer.writerow([*about, part, metric, value, "", "", "", inner["n"]])
    return file.getvalue()


def latex_text(records: Sequence[Record]) -> str:
    """A booktabs table of the mean over languages of each data set, task and metric, in percent.

    CVQA's English and local questions are not averaged.
    """
    lines = [r"\begin{tabular}{llrr}", r"\toprule", r"data set & metric & languages & mean \\", r"\midrule"]
    for dataset, tasks in by_dataset(records).items():
        for task, of_task in tasks.items():
            groups = [[record] for record in of_task.values()] if LOCAL in of_task else [list(of_task.values())]
            for mean in map(mean_over_languages, groups):
                over = mean["languages"][0] if len(groups) > 1 else str(len(mean["languages"]))
                for metric, value in mean["metrics"].items():
                    cells = [_latex(dataset), _latex(metric), over, shown((task, metric), value)]
                    lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(char, char) for char in text)


def suite_text(suite: str, records: Sequence[Record]) -> str:
    """A suite in Markdown: each data set's number in percent, and the plain mean where one stands for the suite."""
    rows = [["data set", "metric", "languages", "value"]]
    for row in suite_rows(suite, records):
        shown = "missing" if row.value is None else f"{100 * row.value:.1f}"
        rows.append([CATALOG[row.dataset].title, row.metric, languages_of(row), shown])
    text = f"### Suite {suite}\n\nPercent.\n\n{aligned(rows)}\n"
    if suite in AVERAGED:
        mean, missing = suite_mean(suite, records)
        told = f"Plain mean over its data sets: {100 * mean:.1f}." if mean is not None else (
            f"No mean, as {len(missing)} of its data sets are missing: {', '.join(missing)}."
        )  # fmt: skip
        text += f"\n{told}\n"
    return text


def beside_text(rows: Sequence[dict[str, Any]], against: str) -> str:
    """Ours beside the published numbers, in Markdown; `!` where they differ by more than AGREES_WITHIN_PCT."""
    cells = [["figure", "ours", "published", "difference", "languages", "source"]]
    for row in rows:
        flag = " !" if row["differs"] else ""
        difference = "" if row["difference_pct"] is None else f"{row['difference_pct']:+.1f}{flag}"
        source = "" if row["source"] is None else f"{row['source']}{' (secondary)' if row['is_secondary'] else ''}"
        ours = [_pct(row["ours_pct"]), _pct(row["published_pct"]), difference, row["over"]]
        cells.append([row["title"], *ours, source])
    notes = "\n".join(f"- {row['title']}: {row['protocol']}" for row in rows)
    return (
        f"### Beside {against}\n\nPercent; `!` marks a difference over {AGREES_WITHIN_PCT}.\n\n{aligned(cells)}\n\n"
        f"{notes}\n"
    )


def _pct(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def write_tables(folder: Path, records: Sequence[Record]) -> None:
    """FOLDER/results.csv and table.tex."""
    write_text(folder / "results.csv", csv_text(records))
    write_text(folder / "table.tex", latex_text(records))


def write_clip_benchmark(folder: Path, records: Sequence[Record]) -> None:
    """One JSON file a record, as `clip_benchmark build` reads them."""
    for record in records:
        name = "_".join([record["dataset"], record["lang"], record["task"], record["model_digest"][:8]])
        write_json(
            folder / f"{name}.json",
            {
                "dataset": record["dataset"],
                "model": record["model"],
                "pretrained": record["model_digest"],
                "task": CLIP_BENCHMARK_TASKS.get(record["task"], record["task"]),
                "metrics": record["metrics"],
                "language": record["lang"],
            },
        )
