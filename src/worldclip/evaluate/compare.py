"""Two evaluations side by side, query by query: is the difference more than the choice of images?

L languages, I images, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.engine import Record, images_path, ranks_path, read_results
from worldclip.evaluate.interval import LEVEL, NUM_RESAMPLES
from worldclip.evaluate.tasks import LOCAL

SAME = ("dataset", "dataset_digest", "lang", "task", "protocol")  # what makes two records comparable
RESAMPLES_AT_ONCE = 100  # 20 MB of counts for 50,000 images
Gain = tuple[np.ndarray, np.ndarray]
"""Of each query -1, 0 or 1, and the image that it is about."""
_AT_K = re.compile(r"^(acc|image_retrieval_recall@|text_retrieval_recall@)(\d+)$")


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
    """Each metric of each data set and task that both folders' evaluations have, in the mean over shared languages.

    first, second: runs, or folders that evaluate wrote.  Rows: dataset, task, metric, languages, first, second,
    difference (second - first), interval_95 of the difference (a paired bootstrap over images: both models and all
    languages answer the same resample), is_significant (0 lies outside); the last two where the metric is a share of
    queries.  UserError where the two have nothing in common.
    """
    folders = [path / "evaluate" if (path / "evaluate").is_dir() else path for path in (first, second)]
    records = [_by_identity(folder, path) for folder, path in zip(folders, (first, second), strict=True)]
    shared = [identity for identity in records[0] if identity in records[1]]
    if not shared:
        raise UserError(
            f"{first} and {second} have no record in common (same data set, language, task and protocol); "
            "evaluate both on the same data sets"
        )
    groups: dict[tuple[str, ...], list[tuple[Record, Record]]] = {}
    of_local = {record["dataset"] for record in records[0].values() if record["lang"] == LOCAL}
    for identity in shared:
        pair = records[0][identity], records[1][identity]
        name, task, lang = (pair[0][field] for field in ("dataset", "task", "lang"))
        apart = (lang,) if name in of_local else ()  # English and local questions are not averaged
        groups.setdefault((name, task, *apart), []).append(pair)
    return [row for pairs in groups.values() for row in _compare_task(folders, pairs)]


def _by_identity(folder: Path, asked: Path) -> dict[str, Record]:
    path = folder / "results.jsonl"
    if not path.exists():
        raise UserError(f"{path} is missing; evaluate first: worldclip evaluate {asked}")
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


def _gains(folders: Sequence[Path], pairs: Sequence[tuple[Record, Record]], metric: str) -> list[Gain] | None:
    """For each language, hit of the second less hit of the first and the image asked, query by query.

    None where the metric is no share of queries that are right, or the two did not ask the same.
    """
    at_k = _AT_K.match(metric)
    way, k = (at_k[1], int(at_k[2])) if at_k else (metric, 1)
    gains = []
    for pair in pairs:
        paths = [ranks_path(folder, record, way) for folder, record in zip(folders, pair, strict=True)]
        of_images = [images_path(folder, record, way) for folder, record in zip(folders, pair, strict=True)]
        if not all(path.exists() for path in [*paths, *of_images]):
            return None
        hits = [np.load(path, allow_pickle=False) < k for path in paths]
        images = [np.load(path, allow_pickle=False) for path in of_images]
        if not np.array_equal(*images):  # images that only one of them decoded
            return None
        gains.append((hits[1].astype(np.int8) - hits[0].astype(np.int8), images[0]))
    return gains


def paired_interval(gains: Sequence[Gain]) -> tuple[float, float]:
    """95% bootstrap interval of the mean over languages of each one's mean gain, from a fixed seed.

    Images are drawn, and with an image all queries about it in all languages; a language that a resample asks nothing
    does not count in it.
    """
    images, place = np.unique(np.concatenate([of_query for _, of_query in gains]), return_inverse=True)
    starts = np.cumsum([0, *(len(of_query) for _, of_query in gains)])
    sums_LI, sizes_LI = np.zeros((2, len(gains), len(images)), np.float32)
    for i, (gain, _) in enumerate(gains):
        of_query = place[starts[i] : starts[i + 1]]
        sums_LI[i] = np.bincount(of_query, weights=gain, minlength=len(images))
        sizes_LI[i] = np.bincount(of_query, minlength=len(images))
    random = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_ONCE):
        times_RI = np.empty((RESAMPLES_AT_ONCE, len(images)), np.float32)
        for times in times_RI:
            times[:] = np.bincount(random.integers(0, len(images), len(images)), minlength=len(images))
        asked_RL = times_RI @ sizes_LI.T
        mean_RL = np.divide(times_RI @ sums_LI.T, asked_RL, out=np.zeros_like(asked_RL), where=asked_RL > 0)
        means[start : start + RESAMPLES_AT_ONCE] = mean_RL.sum(axis=1) / (asked_RL > 0).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
