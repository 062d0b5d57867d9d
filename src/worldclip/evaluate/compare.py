"""Two evaluations side by side, query by query: is the difference more than the choice of images?

L languages, I images, R resamples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldclip.core.errors import UserError
from worldclip.evaluate.engine import images_path, ranks_path, read_results
from worldclip.evaluate.interval import NUM_RESAMPLES, draw_with_replacement, quantiles
from worldclip.evaluate.tasks import LOCAL, Record

IDENTITY = ("dataset", "dataset_digest", "lang", "task", "protocol")  # equal in records that are comparable
RESAMPLES_AT_ONCE = 100  # 20 MB of counts for 50,000 images
_AT_K = re.compile(r"^(acc|image_retrieval_recall@|text_retrieval_recall@)(\d+)$")

RecordPair = tuple[Record, Record]
"""The records of both evaluations for one dataset, language and task."""

Gain = tuple[np.ndarray, np.ndarray]
"""-1, 0 or 1 for each query, and the image that it is about."""


def compare(first: Path, second: Path) -> list[Record]:
    """Return a row for each metric of each dataset and task that both evaluations have, as means over shared languages.

    first, second: runs, or folders that evaluate wrote.  A row has dataset, task, metric, languages, first, second,
    difference (second - first), and if the metric is a share of queries interval_95 of the difference (a paired
    bootstrap over images: both models and all languages answer the same resample) and is_significant (0 is outside).
    Raises UserError if the evaluations have nothing in common.
    """
    folders = [path / "evaluate" if (path / "evaluate").is_dir() else path for path in (first, second)]
    of_first, of_second = map(_by_identity, folders, (first, second))
    pairs = [(record, of_second[key]) for key, record in of_first.items() if key in of_second]
    if not pairs:
        raise UserError(
            f"{first} and {second} have no record in common (same dataset, language, task and protocol); "
            "evaluate both on the same datasets"
        )
    # English and local questions (CVQA) are not averaged.
    with_local = {record["dataset"] for record in of_first.values() if record["lang"] == LOCAL}
    groups: dict[tuple[str, str, str], list[RecordPair]] = {}
    for pair in pairs:
        name, task, lang = (pair[0][field] for field in ("dataset", "task", "lang"))
        groups.setdefault((name, task, lang if name in with_local else ""), []).append(pair)
    return [row for group in groups.values() for row in _compare_task(folders, group)]


def _by_identity(folder: Path, path: Path) -> dict[str, Record]:
    results = folder / "results.jsonl"
    if not results.exists():
        raise UserError(f"{results} is missing; evaluate first: worldclip evaluate {path}")
    return {repr([record[name] for name in IDENTITY]): record for record in read_results(results)}


def _compare_task(folders: Sequence[Path], pairs: Sequence[RecordPair]) -> list[Record]:
    rows = []
    for metric in pairs[0][0]["metrics"]:
        if any(metric not in record["metrics"] for pair in pairs for record in pair):
            continue
        first, second = (float(np.mean([pair[side]["metrics"][metric] for pair in pairs])) for side in (0, 1))
        row: Record = {
            "dataset": pairs[0][0]["dataset"],
            "task": pairs[0][0]["task"],
            "metric": metric,
            "languages": [record["lang"] for record, _ in pairs],
            "first": first,
            "second": second,
            "difference": second - first,
        }
        gains = _gains(folders, pairs, metric)
        if gains is not None:
            low, high = paired_interval(gains)
            row |= {"interval_95": [low, high], "is_significant": low > 0 or high < 0}
        rows.append(row)
    return rows


def _gains(folders: Sequence[Path], pairs: Sequence[RecordPair], metric: str) -> list[Gain] | None:
    """Return for each language the hits of the second evaluation minus those of the first, query by query.

    None if the metric is not a share of queries, or if the two have different queries.
    """
    match = _AT_K.match(metric)
    kind, k = (match[1], int(match[2])) if match else (metric, 1)
    gains = []
    for pair in pairs:
        rank_paths = [ranks_path(folder, record, kind) for folder, record in zip(folders, pair, strict=True)]
        image_paths = [images_path(folder, record, kind) for folder, record in zip(folders, pair, strict=True)]
        if not all(path.exists() for path in [*rank_paths, *image_paths]):
            return None
        first_hits, second_hits = (np.load(path, allow_pickle=False) < k for path in rank_paths)
        first_images, second_images = (np.load(path, allow_pickle=False) for path in image_paths)
        if not np.array_equal(first_images, second_images):  # only one of them could decode some image
            return None
        gains.append((second_hits.astype(np.int8) - first_hits.astype(np.int8), first_images))
    return gains


def paired_interval(gains: Sequence[Gain]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean over languages of each one's mean gain.

    Images are drawn, and with an image all queries about it in all languages; a language without a query in a resample
    does not count in it.
    """
    images, position = np.unique(np.concatenate([of_query for _, of_query in gains]), return_inverse=True)
    starts = np.cumsum([0, *(len(of_query) for _, of_query in gains)])
    sums_LI = np.zeros((len(gains), len(images)), np.float32)
    sizes_LI = np.zeros((len(gains), len(images)), np.float32)
    for i, (gain, _) in enumerate(gains):
        of_query = position[starts[i] : starts[i + 1]]
        sums_LI[i] = np.bincount(of_query, weights=gain, minlength=len(images))
        sizes_LI[i] = np.bincount(of_query, minlength=len(images))
    random = np.random.default_rng(0)
    means = np.empty(NUM_RESAMPLES)
    for start in range(0, NUM_RESAMPLES, RESAMPLES_AT_ONCE):
        times_RI = np.empty((RESAMPLES_AT_ONCE, len(images)), np.float32)
        for times_I in times_RI:
            times_I[:] = draw_with_replacement(random, len(images))
        num_queries_RL = times_RI @ sizes_LI.T
        has_query_RL = num_queries_RL > 0
        sums_RL = times_RI @ sums_LI.T
        mean_RL = np.divide(sums_RL, num_queries_RL, out=np.zeros_like(num_queries_RL), where=has_query_RL)
        means[start : start + RESAMPLES_AT_ONCE] = mean_RL.sum(axis=1) / has_query_RL.sum(axis=1)
    return quantiles(means)
