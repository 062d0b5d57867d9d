"""Evaluations side by side, query by query: is a difference more than the choice of images and seeds?

Runs whose recipes differ only in seeds are one *arm*; each arm is compared with the first.
A arms, L languages, I images, R runs or resamples.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from worldclip.contracts.records import results_of
from worldclip.core.artifacts import digest
from worldclip.core.errors import UserError
from worldclip.evaluate.arms import Arm, find_arms
from worldclip.evaluate.engine import images_path, ranks_path
from worldclip.evaluate.interval import (
    LEVEL,
    Answers,
    Interval,
    extreme_interval,
    interval_of_difference,
    mean_of_resamples,
    quantiles,
    resampled_arms,
    resampled_means,
)
from worldclip.report.results import ResultRecord, by_task_of_runs

_AT_K = re.compile(r"^(acc|image_retrieval_recall@|text_retrieval_recall@)(\d+)$")

Group = Sequence[Sequence[ResultRecord]]
"""For each language the records of all runs, of one dataset and task."""


class MetricRow(TypedDict):
    """A metric of a task as the mean over the languages that all runs have."""

    dataset: str
    task: str
    metric: str
    languages: list[str]
    values: list[float]
    """Mean of each arm over its seeds."""
    differences: list[float]
    """Each other arm minus the first one."""
    preprocess: list[Any]
    """How each arm makes pixels of an image."""
    chance: NotRequired[float]
    """Mean over the languages, if it is known for each."""
    intervals: NotRequired[list[Interval | None]]
    """95% intervals of the differences, if the metric is a share of queries.  A resample draws images, the same ones
    for all runs and languages, and within each arm its seeds.  None: see interval_of_difference."""
    p_values: NotRequired[list[float]]
    """One per difference, by the spread of the resamples; corrected for the number of all of them."""
    is_at_chance: NotRequired[list[bool]]
    """Whether the 95% interval of each arm's value begins at or below chance."""
    seeds: NotRequired[list[list[float]]]
    """The values of each arm's seeds, ascending, or [] for a single seed."""
    is_significant: NotRequired[list[bool]]
    """Of each difference: p is below 0.05 and 0 is outside of the interval."""


class LanguageRow(TypedDict):
    """A metric of a task in one language; values, differences and intervals as in MetricRow."""

    dataset: str
    task: str
    metric: str
    lang: str
    values: list[float]
    differences: list[float]
    intervals: NotRequired[list[Interval | None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The arms, and their numbers side by side."""

    arms: list[Arm]
    rows: list[MetricRow]
    by_language: list[LanguageRow]
    num_tests: int
    """Differences that Holm's correction counts: rows of the same answers once."""


def compare(*paths: Path) -> Comparison:
    """Compare evaluations on what all of them have, as means over shared languages.

    paths: runs, or folders that evaluate wrote.  Raises UserError if the evaluations have nothing in common.
    """
    arms = find_arms(paths)
    folders: list[Path] = []
    arms_of_folders: list[int] = []
    for number, arm in enumerate(arms):
        folders += arm.folders
        arms_of_folders += [number] * len(arm.folders)
    arm_of_run = np.array(arms_of_folders)
    groups: list[list[list[ResultRecord]]] = []  # of each task the languages in which all runs are comparable
    for by_lang_of_runs in by_task_of_runs(list(map(results_of, folders))).values():
        group = []
        for lang in by_lang_of_runs[0]:
            records = [by_lang[lang] for by_lang in by_lang_of_runs if lang in by_lang]
            # Preprocessing may differ: it is each model's own, and the table names differences.
            conditions = [(record["dataset_digest"], {**record["protocol"], "preprocess": None}) for record in records]
            if conditions.count(conditions[0]) == len(folders):
                group.append(records)
        if group:
            groups.append(group)
    if not groups:
        raise UserError(
            f"{', '.join(map(str, paths))} have no record in common (same dataset, language, task and protocol); "
            "evaluate all on the same datasets"
        )
    rows: list[MetricRow] = []
    by_language: list[LanguageRow] = []
    for group in groups:
        records = list(itertools.chain.from_iterable(group))
        for metric in records[0]["metrics"]:
            if all(metric in record["metrics"] for record in records):
                row, in_languages = _compare_metric(group, metric, folders, arm_of_run)
                rows.append(row)
                by_language += in_languages
    num_tests = _mark_significant(rows)
    return Comparison(arms=arms, rows=rows, by_language=by_language, num_tests=num_tests)


def _compare_metric(
    group: Group, metric: str, folders: Sequence[Path], arm_of_run: np.ndarray
) -> tuple[MetricRow, list[LanguageRow]]:
    """Return a metric over all languages, and in each of them; p_values are not corrected yet.

    arm_of_run: (R,) int; [0, 0, 1] says that the first two runs are seeds of one arm, which the third is compared with.
    """
    langs: list[str] = []
    chances = []
    values_LR = np.empty((len(group), len(folders)))
    for values_R, records in zip(values_LR, group, strict=True):
        values_R[:] = [record["metrics"][metric] for record in records]
        langs.append(records[0]["lang"])
        chances.append(records[0].get("chance", {}).get(metric))
    runs_of_arms = [np.flatnonzero(arm_of_run == arm) for arm in range(arm_of_run.max() + 1)]
    values_AL = np.stack([values_LR[:, runs].mean(axis=1) for runs in runs_of_arms])
    values_A = values_AL.mean(axis=1)
    dataset = group[0][0]["dataset"]
    task = group[0][0]["task"]
    row: MetricRow = {
        "dataset": dataset,
        "task": task,
        "metric": metric,
        "languages": langs,
        "values": values_A.tolist(),
        "differences": (values_A[1:] - values_A[0]).tolist(),
        "preprocess": [group[0][runs[0]]["protocol"].get("preprocess", {}) for runs in runs_of_arms],
    }
    if None not in chances:
        row["chance"] = float(np.mean(chances))
    in_languages: list[LanguageRow] = []
    for lang, values_A in zip(langs, values_AL.T, strict=True):
        in_languages.append(
            {
                "dataset": dataset,
                "task": task,
                "metric": metric,
                "lang": lang,
                "values": values_A.tolist(),
                "differences": (values_A[1:] - values_A[0]).tolist(),
            }
        )
    answers = hits(folders, group, metric)
    if answers is not None:
        _add_intervals(row, in_languages, answers, arm_of_run)
    means_R = values_LR.mean(axis=0)
    row["seeds"] = []
    for runs in runs_of_arms:
        row["seeds"].append(np.sort(means_R[runs]).tolist() if len(runs) > 1 else [])
    return row, in_languages


def _add_intervals(
    row: MetricRow, in_languages: Sequence[LanguageRow], answers: list[list[Answers]], arm_of_run: np.ndarray
) -> None:
    """Add the intervals of differences, over all languages also p-values, and which arms are at chance.

    answers: see hits.
    """
    means_of_runs = list(map(resampled_means, answers))
    arms_by_lang = resampled_arms(means_of_runs, arm_of_run)
    for in_language in in_languages:
        in_language["intervals"] = []
    for arm_NL in arms_by_lang[1:]:
        for in_language, resampled in zip(in_languages, (arm_NL - arms_by_lang[0]).T, strict=True):
            in_language["intervals"].append(interval_of_difference(resampled))
    arms = resampled_arms(list(map(mean_of_resamples, means_of_runs)), arm_of_run)
    row["intervals"] = []
    row["p_values"] = []
    for arm in arms[1:]:
        difference = arm - arms[0]
        row["intervals"].append(interval_of_difference(difference))
        # Two-sided, of a difference of 0: normal, as 2,000 resamples resolve too few of them.
        mean = abs(float(difference.mean()))
        spread = float(difference.std())
        row["p_values"].append(math.erfc(mean / spread / math.sqrt(2)) if spread else float(mean == 0))
    if "chance" in row:
        num_images = len(np.unique(np.concatenate([images for _, images in answers[0]])))
        row["is_at_chance"] = []
        for value, arm in zip(row["values"], arms, strict=True):
            low, _ = extreme_interval(value, num_images) if value in (0, 1) else quantiles(arm)
            row["is_at_chance"].append(low <= row["chance"])


def _mark_significant(rows: Sequence[MetricRow]) -> int:
    """Correct p_values for the number of all differences, add is_significant, and return that number.

    A difference is significant if 0 is outside of the interval, too.  Rows of the same answers count once: of a set
    with one name per image, acc1 and the text_retrieval_recall@1 are the same test.
    """
    tests: dict[str, list[MetricRow]] = {}
    for row in rows:
        if "p_values" in row:
            answers = [row["dataset"], row["languages"], row["values"], row["intervals"], row["p_values"]]
            tests.setdefault(digest(answers), []).append(row)
    p_values: list[float] = []
    for same_rows in tests.values():
        p_values += same_rows[0]["p_values"]
    corrected = iter(holm(p_values))
    for same_rows in tests.values():
        p_values_of_test = list(itertools.islice(corrected, len(same_rows[0]["p_values"])))
        for row in same_rows:
            row["p_values"] = p_values_of_test
            row["is_significant"] = []
            for interval, p in zip(row["intervals"], p_values_of_test, strict=True):
                excludes_zero = interval is not None and (interval[0] > 0 or interval[1] < 0)
                row["is_significant"].append(excludes_zero and p < 1 - LEVEL)
    return len(p_values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (S. Holm, A simple sequentially rejective multiple test, 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, scaled))
    return list(map(float, corrected))


def hits(folders: Sequence[Path], group: Group, metric: str) -> list[list[Answers]] | None:
    """Return for each run and language whether each query was answered rightly, and its image.

    None if the metric is not a share of queries, if the ranks are not in the folders, or if the runs have different
    queries.
    """
    kind = metric
    k = 1
    match = _AT_K.match(metric)
    if match:  # recall@5: the kind of query, and 5
        kind = match[1]
        k = int(match[2])
    answers: list[list[Answers]] = [[] for _ in folders]
    for records in group:
        first_images: np.ndarray | None = None
        for run, (folder, record) in enumerate(zip(folders, records, strict=True)):
            path_of_ranks = ranks_path(folder, record, kind)
            path_of_images = images_path(folder, record, kind)
            if not path_of_ranks.exists() or not path_of_images.exists():
                return None
            ranks = _read_array(path_of_ranks)
            images = _read_array(path_of_images)
            if first_images is None:
                first_images = images
            if not np.array_equal(first_images, images):  # only some of them could decode some image
                return None
            answers[run].append((ranks < k, images))
    return answers


def _read_array(path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a readable array ({error}); remove it to compare without intervals") from error
    return array
