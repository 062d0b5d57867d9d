"""Many models side by side: a number per model, dataset and group of languages, with its interval.

A column holds what can be compared: the same data, task, protocol, ties and way from images to pixels, over the same
languages in every row.  What differs in one of these gets a column of its own.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.records import read_results
from worldclip.evaluate import mteb_results
from worldclip.evaluate.compare import find_arms, hits, resampled_arms
from worldclip.evaluate.interval import quantiles
from worldclip.evaluate.report import DISTANCE_TASKS, main_metrics, with_made_metrics
from worldclip.evaluate.tasks import LOCAL, Record
from worldclip.report.by_language import MIN_LANGUAGES, find_language

FIELDS = {"dataset": str, "dataset_digest": str, "lang": str, "task": str, "protocol": dict, "metrics": dict,
          "interval_95": dict}  # fmt: skip
ALL = "all languages"
LEVELS = ("high resource", "mid resource", "low resource")  # groups of languages


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A row: one model, as one evaluation or one per seed."""

    name: str
    folders: list[Path]
    runs: list[list[Record]]
    """The records of each folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What the numbers of a column are."""

    dataset: str
    task: str
    metric: str
    group: str
    """ALL, one of LEVELS, or the language itself where languages are not averaged (CVQA)."""
    languages: list[str]
    conditions: Record
    """What must be equal: the dataset's digest, the protocol, and how images become pixels."""
    variant: int = 0
    """Number among columns that differ in their conditions alone; 0 if there is one."""

    @property
    def is_main(self) -> bool:
        """Whether the column is over all languages."""
        return self.group not in LEVELS

    @property
    def without_conditions(self) -> tuple[str, ...]:
        """What variants of a column have in common."""
        return self.dataset, self.task, self.metric, self.group if self.is_main else ALL


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A model's mean over the languages of a column; None if it lacks one of them."""

    value: float | None
    interval_95: tuple[float, float] | None = None
    num_languages: int
    """Languages of the column that the model has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """Models, best first, and for each of them a cell per column."""

    models: list[Model]
    columns: list[Column]
    cells: list[list[Cell]]
    differences: list[str] = field(default_factory=list)
    """A sentence per dataset and metric with several variants: in what they differ."""


def leaderboard(*paths: Path) -> Leaderboard:
    """Read evaluations and return their numbers side by side.

    paths: runs, folders that evaluate wrote, or folders of mteb's results.  Runs that differ in seeds alone are one
    model.  Models are sorted by their mean over the columns that all of them have.  Raises UserError with all problems
    of the folders.
    """
    models = read_models(paths)
    columns: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in models]
    for key, of_models in _group(models).items():
        for column in _columns(json.loads(key), of_models):
            columns.append(column)
            for row, model, runs in zip(cells, models, of_models, strict=True):
                row.append(_cell(column, model.folders, runs))
    columns, differences = _number_variants(columns)
    order = _best_first(columns, cells)
    return Leaderboard(
        models=[models[i] for i in order],
        columns=columns,
        cells=[cells[i] for i in order],
        differences=differences,
    )


# --- reading ----------------------------------------------------------------------------------------------------------


def read_models(paths: Sequence[Path]) -> list[Model]:
    """Return the models of the folders.  Raises UserError with all problems."""
    problems = [f"{path} is named twice; name it once" for path in _repeated(path.resolve() for path in paths)]
    ours, models = [], []
    for path in paths:
        folders = mteb_results.model_folders(path)
        for folder in folders:
            records, bad_files = mteb_results.read_records(folder)
            problems += bad_files
            try:
                models.append(Model(name=mteb_results.read_model_name(folder), folders=[folder], runs=[records]))
            except UserError as error:
                problems += error.problems
            if not records and not bad_files:
                problems.append(f"{folder} holds no result of mteb beside {mteb_results.META}; evaluate again")
        has_results = (path / "results.jsonl").is_file() or (path / "evaluate" / "results.jsonl").is_file()
        if has_results:
            ours.append(path)
        elif not folders:
            problems.append(
                f"{path} holds no results, neither results.jsonl nor those of mteb (<model>/<revision>/"
                f"{mteb_results.META}); evaluate first: worldclip evaluate MODEL --out {path}"
            )
    for arm in find_arms(ours):
        runs, bad_lines = zip(*map(_read_run, arm.folders), strict=True)
        problems += [problem for of_run in bad_lines for problem in of_run]
        models.append(Model(name=arm.name, folders=arm.folders, runs=list(runs)))
    for name in _repeated(model.name for model in models):
        names = [str(folder) for model in models if model.name == name for folder in model.folders]
        problems.append(f"{len(names)} folders are of a model {name!r}: {', '.join(names)}; name one of them")
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return models


def _repeated(values: Iterable[Any]) -> list[Any]:
    values = list(values)
    return [value for value in dict.fromkeys(values) if values.count(value) > 1]


def _read_run(folder: Path) -> tuple[list[Record], list[str]]:
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
        wrong = [name for name, kind in FIELDS.items() if not isinstance(_get(record, name), kind)]
        if wrong:
            problems.append(
                f"{path}:{number} is not a record of evaluate ({', '.join(wrong)}); remove the line and rerun"
            )
    return records, problems


def _get(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


# --- columns ----------------------------------------------------------------------------------------------------------

Runs = list[dict[str, Record]]
"""For each run of a model its records by language."""


def _group(models: Sequence[Model]) -> dict[str, list[Runs]]:
    """Return {what must be equal, as JSON: the records of each model}.

    English and local questions (CVQA) are never averaged: there the language belongs to the key.
    """
    records = [(m, r, record) for m, model in enumerate(models) for r, run in enumerate(model.runs) for record in run]
    with_local = {record["dataset"] for _, _, record in records if record["lang"] == LOCAL}
    groups: dict[str, list[Runs]] = {}
    for m, r, record in records:
        lang = record["lang"] if record["dataset"] in with_local else ""
        key = json.dumps([record["dataset"], record["task"], lang, conditions(record)], sort_keys=True)
        if key not in groups:
            groups[key] = [[{} for _ in model.runs] for model in models]
        groups[key][m][r][record["lang"]] = record
    return groups


def conditions(record: Record) -> Record:
    """Return what must be equal in the records of a column.

    Of the preprocessing this is the way from image to pixels: size, mean and standard deviation belong to the model.
    """
    protocol = dict(record["protocol"])
    preprocess = protocol.pop("preprocess", None) or {}
    way = {
        f"preprocess {name}": re.sub(r"\d+", "N", str(value))
        for name, value in preprocess.items()
        if name not in ("mean", "std")
    }
    return {"data": record["dataset_digest"], **protocol, **way}


def _columns(key: list[Any], of_models: Sequence[Runs]) -> list[Column]:
    """Return the columns of a group: its main metrics, over all languages and over those of each level of resources."""
    dataset, task, lang, equal = key
    records = [record for runs in of_models for by_lang in runs for record in by_lang.values()]
    available = dict.fromkeys(metric for record in records for metric in with_made_metrics(dataset, record))
    languages = sorted({record["lang"] for record in records})
    groups = {lang: languages} if lang else {ALL: languages, **_by_level(languages)}
    return [
        Column(dataset=dataset, task=task, metric=metric, group=group, languages=langs, conditions=equal)
        for metric in main_metrics(dataset, task, available)
        for group, langs in groups.items()
    ]


def _by_level(codes: Sequence[str]) -> dict[str, list[str]]:
    """Return the languages of each level of resources; none if there are fewer than MIN_LANGUAGES in the table."""
    rows = {code: find_language(code) for code in codes}
    known = {code: row.resource_level for code, row in rows.items() if row is not None}
    if len(known) < MIN_LANGUAGES:
        return {}
    levels = {name: [code for code in known if name == f"{known[code]} resource"] for name in LEVELS}
    return {name: langs for name, langs in levels.items() if langs}


def _cell(column: Column, folders: Sequence[Path], runs: Runs) -> Cell:
    """Return a model's number: the mean over languages and seeds, with the interval over images and seeds."""
    values = [
        [with_made_metrics(column.dataset, by_lang[lang]).get(column.metric) if lang in by_lang else None
         for by_lang in runs]
        for lang in column.languages
    ]  # fmt: skip
    is_complete = [all(value is not None for value in of_lang) for of_lang in values]
    if not all(is_complete):
        return Cell(value=None, num_languages=sum(is_complete))
    group = [[by_lang[lang] for by_lang in runs] for lang in column.languages]
    mean = float(np.mean(np.array(values, float)))
    return Cell(value=mean, interval_95=_interval(column.metric, folders, group), num_languages=len(values))


def _interval(metric: str, folders: Sequence[Path], group: Sequence[Sequence[Record]]) -> tuple[float, float] | None:
    """Return the interval of a mean: the record's own if it is one, else from the ranks beside the results."""
    if len(group) == len(folders) == 1:
        low_high = group[0][0]["interval_95"].get(metric)
        return None if low_high is None else (low_high[0], low_high[1])
    answers = hits(folders, group, metric)
    if answers is None:
        return None
    return quantiles(resampled_arms(answers, np.zeros(len(folders), int))[0])


def _number_variants(columns: Sequence[Column]) -> tuple[list[Column], list[str]]:
    """Number the columns that differ in their conditions alone, and say in what they differ."""
    variants: dict[tuple[str, ...], list[Record]] = {}
    for column in columns:
        same = variants.setdefault(column.without_conditions, [])
        if column.conditions not in same:
            same.append(column.conditions)
    several = {key: same for key, same in variants.items() if len(same) > 1}
    numbered = [
        dataclasses.replace(column, variant=several[column.without_conditions].index(column.conditions) + 1)
        if column.without_conditions in several
        else column
        for column in columns
    ]
    return numbered, list(dict.fromkeys(_difference(key[0], same) for key, same in several.items()))


def _difference(dataset: str, variants: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for variant in variants for name in variant)
    texts = {name: [str(variant.get(name, "not stated")) for variant in variants] for name in names}
    differing = [f"{name}: {'; '.join(values)}" for name, values in texts.items() if len(set(values)) > 1]
    numbers = ", ".join(f"{dataset} ({i})" for i in range(1, len(variants) + 1))
    return f"{numbers} cannot be compared with each other. They differ in {', and in '.join(differing)}."


def _best_first(columns: Sequence[Column], cells: Sequence[Sequence[Cell]]) -> list[int]:
    """Return the order of the models by their mean over the columns of all languages that each of them has."""
    shared = [
        i
        for i, column in enumerate(columns)
        if column.is_main and column.task not in DISTANCE_TASKS and all(row[i].value is not None for row in cells)
    ]
    means = [sum(row[i].value or 0.0 for i in shared) for row in cells]
    return sorted(range(len(cells)), key=lambda model: -means[model])
