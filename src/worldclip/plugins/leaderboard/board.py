"""Many models side by side: a number per model, dataset and group of languages, with its interval.

A column holds what can be compared: the same data, task, protocol, ties and way from images to pixels, over the same
languages in every row.  What differs in one of these gets a column of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.records import read_results
from worldclip.core.errors import UserError
from worldclip.evaluate.compare import find_arms, hits, resampled_arms
from worldclip.evaluate.interval import quantiles
from worldclip.evaluate.report import main_metrics, with_derived_metrics
from worldclip.language.table import INSTALLED
from worldclip.plugins.leaderboard import mteb_results
from worldclip.report.by_language import MIN_LANGUAGES, known_languages
from worldclip.report.metrics import task_info
from worldclip.report.results import ResultRecord, by_task_of_runs

FIELDS = {"dataset": str, "dataset_digest": str, "lang": str, "task": str, "protocol": dict, "metrics": dict,
          "interval_95": dict}  # fmt: skip
ALL = "all languages"
LEVELS = ("high resource", "mid resource", "low resource")  # groups of languages


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardModel:
    """A row: one model, as one evaluation or one per seed."""

    name: str
    folders: list[Path]
    runs: list[list[ResultRecord]]
    """The records of each folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardColumn:
    """Numbers that can be compared."""

    dataset: str
    task: str
    metric: str
    group: str
    """ALL, one of LEVELS, or the language itself where languages are not averaged (CVQA)."""
    languages: list[str]
    conditions: dict[str, Any]
    """The conditions that must be equal: the dataset's digest, the protocol, and how images become pixels."""
    chance: float | None = None
    """The mean over the languages of what guessing gives; None where it is not known."""
    variant: int = 0
    """Number among columns that differ only in their conditions; 0 if there is one."""

    @property
    def is_main(self) -> bool:
        """Whether the column is over all languages."""
        return self.group not in LEVELS

    @property
    def without_conditions(self) -> tuple[str, ...]:
        """The common part of a column's variants."""
        return self.dataset, self.task, self.metric, self.group if self.is_main else ALL


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardCell:
    """A model's mean over the languages of a column; None if it lacks one of them."""

    value: float | None
    interval_95: tuple[float, float] | None = None
    num_languages: int
    """Languages of the column that the model has."""
    seeds: tuple[float, ...] = ()
    """The number of each seed, ascending; empty for one run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """Models, best first, and for each of them a cell per column."""

    models: list[BoardModel]
    columns: list[BoardColumn]
    cells: list[list[BoardCell]]
    differences: list[str] = field(default_factory=list)
    """A sentence per dataset and metric with several variants: in what they differ."""
    left_out: list[str] = field(default_factory=list)
    """A sentence per folder that was named and is not a row: no results yet, or those of another one."""


def leaderboard(*paths: Path) -> Leaderboard:
    """Read evaluations and return their numbers side by side.

    paths: runs, folders that evaluate wrote, or folders of mteb's results.  Runs that differ only in seeds are one
    model; runs without results, and results named before, are left out.  Models are sorted by their mean over the
    columns that all of them have.  Raises UserError with all problems of the folders.
    """
    # All runs of all models are grouped at once; a model's runs stay next to each other, hence the slices below.
    left_out: list[str] = []
    models = read_models(paths, left_out)
    runs = [run for model in models for run in model.runs]
    columns: list[BoardColumn] = []
    cells: list[list[BoardCell]] = [[] for _ in models]
    groups = by_task_of_runs(runs, lambda record: json.dumps(conditions(record), sort_keys=True))
    for (dataset, task, lang, key), of_runs in groups.items():
        for column in _columns(dataset, task, lang, json.loads(key), of_runs):
            columns.append(column)
            start = 0
            for row, model in zip(cells, models, strict=True):
                stop = start + len(model.runs)
                row.append(_cell(column, model.folders, of_runs[start:stop]))
                start = stop
    columns, differences = _number_variants(columns)
    order = _best_first(columns, cells)
    return Leaderboard(
        models=[models[i] for i in order],
        columns=columns,
        cells=[cells[i] for i in order],
        differences=differences,
        left_out=left_out,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_models(paths: Sequence[Path], left_out: list[str]) -> list[BoardModel]:
    """Return the models of the folders.  Raises UserError with all problems.

    left_out: gets a sentence per folder that gives no row.
    """
    repeated = _repeated(path.resolve() for path in paths)
    problems = [f"{path} is named twice; name it once" for path in repeated]
    models: list[BoardModel] = []
    ours: list[Path] = []
    digests: dict[str, Path] = {}
    for path in paths:
        of_mteb = mteb_results.model_folders(path)
        for folder in of_mteb:
            records, name, bad_files = mteb_results.read_model(folder)
            models.append(BoardModel(name=name, folders=[folder], runs=[records]))
            problems += bad_files
        places = (path, layout.stage_dir(path, "evaluate"))  # what evaluate wrote, or a run
        results = next((place for place in places if (place / "results.jsonl").is_file()), None)
        if results is not None:
            digest = hashlib.sha256((results / "results.jsonl").read_bytes()).hexdigest()
            if (first := digests.setdefault(digest, path)) == path:
                ours.append(path)
            else:
                left_out.append(f"{_shown(path)} holds the results of {_shown(first)}; they count once")
        elif layout.is_run(path):
            left_out.append(f"{_shown(path)} has no results yet; evaluate it: worldclip evaluate {_shown(path)}")
        elif not of_mteb:
            problems.append(
                f"{path} holds no results, neither results.jsonl nor those of mteb (<model>/<revision>/"
                f"{mteb_results.META}); evaluate first: worldclip evaluate MODEL --out {path}"
            )
    for arm in find_arms(ours):
        runs = []
        for folder in arm.folders:
            records, bad_lines = _read_run(folder)
            runs.append(records)
            problems += bad_lines
        models.append(BoardModel(name=arm.name, folders=arm.folders, runs=runs))
    for name in _repeated(model.name for model in models if model.name):
        folders = [str(folder) for model in models if model.name == name for folder in model.folders]
        problems.append(f"{len(folders)} folders are of a model {name!r}: {', '.join(folders)}; name one of them")
    if not models and not problems:
        problems = left_out
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return models


def _shown(path: Path) -> str:
    """Return a folder for a page that others read: of an absolute path, its name."""
    return path.name if path.is_absolute() else str(path)


def _repeated(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    return [value for value in dict.fromkeys(values) if values.count(value) > 1]


def _read_run(folder: Path) -> tuple[list[ResultRecord], list[str]]:
    """Return the records of a folder that evaluate wrote, and its problems."""
    path = folder / "results.jsonl"
    try:
        records = read_results(path)
    except UserError as error:
        return [], error.problems
    if not records:
        return [], [f"{path} is empty; evaluate again"]
    problems = []
    for number, record in enumerate(records, 1):
        values = record if isinstance(record, dict) else {}
        wrong = [name for name, kind in FIELDS.items() if not isinstance(values.get(name), kind)]
        if wrong:
            fields = ", ".join(wrong)
            problems.append(f"{path}:{number} is not a record of evaluate ({fields}); remove the line and rerun")
    return records, problems


# --- columns ----------------------------------------------------------------------------------------------------------


def conditions(record: ResultRecord) -> dict[str, Any]:
    """Return what must be equal in the records of a column.

    Of the preprocessing this is the way from image to pixels: size, mean and standard deviation belong to the model.
    """
    protocol = dict(record["protocol"])
    preprocess = protocol.pop("preprocess", None) or {}
    equal = {"data": record["dataset_digest"], **protocol}
    for name, value in preprocess.items():
        if name not in ("mean", "std"):
            equal[f"preprocess {name}"] = re.sub(r"\d+", "N", str(value))
    return equal


def _columns(
    dataset: str, task: str, lang: str, equal: dict[str, Any], of_runs: Sequence[Mapping[str, ResultRecord]]
) -> list[BoardColumn]:
    """Return the columns of a group: its main metrics, over all languages and over those of each level of resources.

    lang: the only language of the group, where languages are not averaged.  of_runs: {language: record} of each run.
    """
    records = [record for by_lang in of_runs for record in by_lang.values()]
    available = dict.fromkeys(metric for record in records for metric in with_derived_metrics(dataset, record))
    languages = sorted({record["lang"] for record in records})
    groups = {lang: languages} if lang else {ALL: languages, **_by_level(languages)}
    return [
        BoardColumn(
            dataset=dataset,
            task=task,
            metric=metric,
            group=group,
            languages=langs,
            conditions=equal,
            chance=_chance(records, metric, langs),
        )
        for metric in main_metrics(dataset, task, available)
        for group, langs in groups.items()
    ]


def _chance(records: Sequence[ResultRecord], metric: str, langs: Sequence[str]) -> float | None:
    """Return the mean over languages of a metric's chance; None unless each language has it."""
    of_lang = {record["lang"]: record.get("chance", {}).get(metric) for record in records}
    chances = [of_lang.get(lang) for lang in langs]
    known = [chance for chance in chances if chance is not None]
    return float(np.mean(known)) if len(known) == len(chances) else None


def _by_level(codes: Sequence[str]) -> dict[str, list[str]]:
    """Return the languages of each level of resources; none if there are fewer than MIN_LANGUAGES in the table."""
    known = known_languages(codes, INSTALLED)
    if len(known) < MIN_LANGUAGES:
        return {}
    levels: dict[str, list[str]] = {name: [] for name in LEVELS}
    for code, row in known.items():
        levels[f"{row.resource_level} resource"].append(code)
    return {name: langs for name, langs in levels.items() if langs}


def _cell(column: BoardColumn, folders: Sequence[Path], of_runs: Sequence[Mapping[str, ResultRecord]]) -> BoardCell:
    """Return a model's number: the mean over languages and seeds, with the interval over images and seeds.

    of_runs: {language: record} of each run of the model.
    """
    complete: list[list[ResultRecord]] = []
    values_LR = []
    for lang in column.languages:
        records = [by_lang[lang] for by_lang in of_runs if lang in by_lang]
        metrics = [with_derived_metrics(column.dataset, record) for record in records]
        values = [of_run[column.metric] for of_run in metrics if column.metric in of_run]
        if len(values) == len(of_runs):
            complete.append(records)
            values_LR.append(values)
    if len(complete) < len(column.languages):
        return BoardCell(value=None, num_languages=len(complete))
    means_R = np.mean(np.array(values_LR, float), axis=0)
    interval = _interval(column.metric, folders, complete)
    seeds = tuple(sorted(means_R.tolist())) if len(means_R) > 1 else ()
    return BoardCell(value=float(np.mean(means_R)), interval_95=interval, num_languages=len(complete), seeds=seeds)


def _interval(
    metric: str, folders: Sequence[Path], group: Sequence[Sequence[ResultRecord]]
) -> tuple[float, float] | None:
    """Return the interval of a mean: the record's own if it is one, else from the ranks in the folders."""
    if len(group) == len(folders) == 1:
        low_high = group[0][0]["interval_95"].get(metric)
        return None if low_high is None else (low_high[0], low_high[1])
    answers = hits(folders, group, metric)
    if answers is None:
        return None
    return quantiles(resampled_arms(answers, np.zeros(len(folders), int))[0])


def _number_variants(columns: Sequence[BoardColumn]) -> tuple[list[BoardColumn], list[str]]:
    """Number the columns that differ only in their conditions, and say in what they differ."""
    variants: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for column in columns:
        same = variants.setdefault(column.without_conditions, [])
        if column.conditions not in same:
            same.append(column.conditions)
    numbered = []
    for column in columns:
        same = variants[column.without_conditions]
        number = same.index(column.conditions) + 1 if len(same) > 1 else 0
        numbered.append(dataclasses.replace(column, variant=number))
    sentences = [_difference(key[0], same) for key, same in variants.items() if len(same) > 1]
    return numbered, list(dict.fromkeys(sentences))


def _difference(dataset: str, variants: Sequence[Mapping[str, Any]]) -> str:
    differing = []
    for name in dict.fromkeys(name for variant in variants for name in variant):
        texts = [str(variant.get(name, "not stated")) for variant in variants]
        if len(set(texts)) > 1:
            differing.append(f"{name}: {'; '.join(texts)}")
    numbers = ", ".join(f"{dataset} ({i})" for i in range(1, len(variants) + 1))
    return f"{numbers} cannot be compared with each other. They differ in {', and in '.join(differing)}."


def _best_first(columns: Sequence[BoardColumn], cells: Sequence[Sequence[BoardCell]]) -> list[int]:
    """Return the order of the models by their mean over the columns of all languages that each of them has."""
    # The sum over the same columns orders models as their mean does.
    sums = [0.0] * len(cells)
    for column, *of_models in zip(columns, *cells, strict=True):
        values = [cell.value for cell in of_models if cell.value is not None]
        if column.is_main and task_info(column.task).is_share and len(values) == len(cells):
            sums = [total + value for total, value in zip(sums, values, strict=True)]
    return sorted(range(len(cells)), key=lambda model: -sums[model])
