"""Two evaluations side by side, query by query: is the difference more than the choice of images?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.errors import UserError
from worldclip.evaluate.engine import Record, ranks_path, read_results
from worldclip.evaluate.interval import LEVEL, NUM_RESAMPLES

SAME = ("dataset", "dataset_digest", "lang", "task", "protocol")  # what makes two records comparable
_AT_K = re.compile(r"^(acc|image_retrieval_recall@|text_retrieval_recall@)(\d+)$")


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
    """Each metric of each data set and task that both folders' evaluations have, in the mean over shared languages.

    first, second: runs, or folders that evaluate wrote.  Rows: dataset, task, metric, languages, first, second,
    difference (second - first), interval_95 of the difference (a paired bootstrap over queries: both models and all
    languages answer the same resample), is_significant (0 lies outside).  Where languages ask different queries they
    are resampled each on their own.  UserError where the two have nothing in common.
    """
    folders = [path / "evaluate" if (path / "evaluate").is_dir() else path for path in (first, second)]
    records = [_by_identity(folder) for folder in folders]
    shared = [identity for identity in records[0] if identity in records[1]]
    if not shared:
        raise UserError(
            f"{first} and {second} have no record in common (same data set, language, task and protocol); "
            "evaluate both on the same data sets"
        )
    groups: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
    for identity in shared:
        pair = records[0][identity], records[1][identity]
        groups.setdefault((pair[0]["dataset"], pair[0]["task"]), []).append(pair)
    return [row for pairs in groups.values() for row in _compare_task(folders, pairs)]


def _by_identity(folder: Path) -> dict[str, Record]:
    path = folder / "results.jsonl"
    if not path.exists():
        raise UserError(f"{path} is missing; evaluate first: worldclip evaluate {folder.parent}")
    return {repr([record[name] for name in SAME]): record for record in read_results(path)}


def _compare_task(folders: Sequence[Path], pairs: Sequence[tuple[Record, Record]]) -> list[dict[str, Any]]:
    rows = []
    for metric in pairs[0][0]["metrics"]:
        if any(metric not in record["metrics"] for pair in pairs for record in pair):
            continue
        means = [float(np.mean([pair[side]["metrics"][metric] for pair in pairs])) for side in (0, 1)]
        row: dict[str, Any] = {
            "dataset": pairs[0][0]["dataset"],
            "task": pairs[0][0]["task"],
            "metric": metric,
            "languages": [pair[0]["lang"] for pair in pairs],
            "first": means[0],
            "second": means[1],
            "difference": means[1] - means[0],
        }
        if (gains := _gains(folders, pairs, metric)) is not None:
            low, high = paired_interval(gains)
            row |= {"interval_95": [low, high], "is_significant": low > 0 or high < 0}
        rows.append(row)
    return rows


def _gains(folders: Sequence[Path], pairs: Sequence[tuple[Record, Record]], metric: str) -> list[np.ndarray] | None:
    """For each language, hit of the second less hit of the first, query by query; None where no ranks say so."""
    at_k = _AT_K.match(metric)
    way, k = (at_k[1], int(at_k[2])) if at_k else (metric, 1)
    gains = []
    for pair in pairs:
        paths = [ranks_path(folder, record, way) for folder, record in zip(folders, pair, strict=True)]
        if not all(path.exists() for path in paths):
            return None
        hits = [np.load(path, allow_pickle=False) < k for path in paths]
        if len(hits[0]) != len(hits[1]):  # images that only one of them decoded
            return None
        gains.append(hits[1].astype(np.int8) - hits[0].astype(np.int8))
    return gains


def paired_interval(gains: Sequence[np.ndarray]) -> tuple[float, float]:
    """95% bootstrap interval of the mean over languages of each one's mean gain, from a fixed seed.

    gains: one (num_queries,) array a language, in -1, 0, 1.  Of equal length: the queries are the same images, drawn
    together; else each language draws its own.
    """
    random = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    if len({len(gain) for gain in gains}) == 1:
        by_query = np.mean(np.stack(gains), axis=0)
        for i in range(NUM_RESAMPLES):
            means[i] = by_query[random.integers(0, len(by_query), len(by_query))].mean()
    else:
        for i in range(NUM_RESAMPLES):
            means[i] = np.mean([gain[random.integers(0, len(gain), len(gain))].mean() for gain in gains])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison as a table, in percent; a star marks differences whose interval leaves out 0."""
    lines = ["| data set | metric | languages | first | second | difference | 95% interval |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for row in rows:
        low, high = row.get("interval_95", (None, None))
        interval = "" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        star = " *" if row.get("is_significant") else ""
        values = f"{100 * row['first']:.1f} | {100 * row['second']:.1f} | {100 * row['difference']:+.1f}{star}"
        lines.append(f"| {row['dataset']} | {row['metric']} | {len(row['languages'])} | {values} | {interval} |")
    over = list(dict.fromkeys(" ".join(row["languages"]) for row in rows))
    return "\n".join(lines) + "\n\n" + "\n".join(f"Means over: {languages}." for languages in over) + "\n"
