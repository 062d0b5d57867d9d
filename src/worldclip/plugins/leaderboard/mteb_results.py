"""Results of mteb as records: RESULTS/<model>/<revision>/<task>.json next to a model_meta.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.evaluate.datasets.common.text_files import our_code
from worldclip.language import table as languages
from worldclip.report.results import ResultRecord

META = "model_meta.json"
DEPTHS = ("", "*/", "*/*/", "results/*/*/")  # a revision, a model, mteb's folder of results, the folder of that one
METRIC = "main_score"  # the task decides which metric it is; the file does not say


def model_folders(path: Path) -> list[Path]:
    """Return the folders <model>/<revision> at or below `path`; mteb's experiments are left out."""
    folders = {meta.parent for depth in DEPTHS for meta in path.glob(f"{depth}{META}")}
    return sorted(folder for folder in folders if "experiments" not in folder.relative_to(path).parts)


def read_model(folder: Path) -> tuple[list[ResultRecord], str, list[str]]:
    """Return a record per task, split and subset of its languages, the model's name, and the problems of the files."""
    records: list[ResultRecord] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")):
        if path.name == META:
            continue
        try:
            records += _read_records(path)
        except UserError as error:
            problems += error.problems
    if not records and not problems:
        problems.append(f"{folder} holds no result of mteb next to {META}; evaluate again")
    name = ""
    try:
        name = _read_name(folder / META)
    except UserError as error:
        problems += error.problems
    return records, name, problems


def _read_name(path: Path) -> str:
    """Return the model's name, organisation/model."""
    name = _read(path).get("name")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: name is {name!r}; it must be the name of the model")
    return name


def _read_records(path: Path) -> Iterator[ResultRecord]:
    result = _read(path)
    splits = result.get("scores")
    if not isinstance(result.get("task_name"), str) or not isinstance(splits, dict):
        raise UserError(f"{path} is not a result of mteb (task_name, scores); remove it or evaluate again")
    version = str(result.get("mteb_version")).split(".")[0]
    for split, subsets in splits.items():
        subsets = subsets if isinstance(subsets, list) else [None]
        times = Counter(_language(subset) for subset in subsets if isinstance(subset, dict))
        for subset in subsets:
            score = subset.get(METRIC) if isinstance(subset, dict) else None
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise UserError(f"{path}: a score of split {split!r} has no number {METRIC}; evaluate again")
            lang = _language(subset)
            if times[lang] > 1:  # two scripts of a language
                lang = str(subset.get("hf_subset", lang))
            yield {
                "dataset": result["task_name"],
                "dataset_digest": str(result.get("dataset_revision")),
                "lang": lang,
                "task": "mteb",
                "protocol": {"mteb": version, "split": split},
                "metrics": {METRIC: float(score)},
                "interval_95": {},
            }


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); remove it or evaluate again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object; remove it or evaluate again")
    return value


def _language(subset: dict[str, Any]) -> str:
    """Return our code of the subset's language; a subset of several languages keeps its own name."""
    codes = subset.get("languages")
    if not isinstance(codes, list) or len(codes) != 1:
        return str(subset.get("hf_subset", "default"))
    code = str(codes[0]).replace("-", "_")
    if languages.scheme_of(code) != "glotlid":
        return our_code(code, languages.INSTALLED)
    lang = languages.from_lid(code, "glotlid")
    return code if lang == languages.OTHER else lang
