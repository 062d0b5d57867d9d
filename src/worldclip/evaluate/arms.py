"""The arms of a comparison: runs whose recipes differ only in seeds are one, and what differs from the first arm."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldclip.contracts import layout
from worldclip.contracts.records import outdated_stages
from worldclip.core.artifacts import digest, read_manifest
from worldclip.core.changes import Change, changed_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job_files import read_record
from worldclip.core.printable import command_line
from worldclip.core.settings import read_toml
from worldclip.model.load import outdated_results
from worldclip.report.train import read_log

DECIDING_STAGES = ("metadata", "match", "balance", "curate", "train")
MAX_NAME = 40  # characters of the keys in an arm's name; longer ones leave no room for a table


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """Evaluations of one setting, one per seed."""

    name: str
    folders: list[Path]
    """With results.jsonl and ranks."""
    runs: list[str]
    """Short names of the folders."""
    changes: list[Change] = field(default_factory=list)
    """Keys of the recipe that are not as in the first arm; empty without recipes."""
    seen: dict[str, float] = field(default_factory=dict)
    """Pairs that training saw, by language: the mean over the runs, empty where a run has no training."""
    code: list[str] = field(default_factory=list)
    """Stages whose code was not as in the first arm (`code` of their manifests); those without a record are equal."""
    schedules: list[str] = field(default_factory=list)
    """Keys that changed while a run was trained, and from which step on."""


def find_arms(paths: Sequence[Path]) -> list[Arm]:
    """Group runs whose recipes differ only in seeds; any other folder is an arm of its own.

    Raises UserError for a path without an evaluation, and for a run that was trained since.
    """
    paths = [layout.run_of(path.absolute(), "evaluate") for path in paths]
    folders = _result_folders(paths)
    depth = 1
    # Runs of one name are common (runs/a/evaluate, runs/b/evaluate): add folders until the names differ.
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    tables: list[dict[str, Any]] = []
    recipes: dict[str, dict[str, Any] | None] = {}  # of each group of runs; None for a folder without one
    groups: dict[str, list[tuple[Path, Path, str]]] = {}
    for i, (path, folder) in enumerate(zip(paths, folders, strict=True)):
        key = f"folder {i}"
        recipe = None
        # Not a recipe that another training was begun by.
        if layout.recipe(path).is_file() and "evaluate" not in outdated_stages(path):
            table = read_toml(path)
            if table not in tables:  # a run given twice, or its copy, is not a second seed
                tables.append(table)
                recipe = _without_seeds(table)
                key = digest(recipe)
        recipes[key] = recipe
        groups.setdefault(key, []).append((path, folder, "/".join(path.parts[-depth:])))
    first_recipe = next(iter(recipes.values()))
    changes: list[list[Change]] = [[] for _ in groups]
    if None not in recipes.values():
        changes = [changed_keys(first_recipe, recipe) for recipe in recipes.values()]
    first_code = _code_of(paths[0])
    arm_names = _names_by_keys(changes) or [name for (_, _, name), *_ in groups.values()]
    arms = []
    for name, runs, changes_of_arm in zip(arm_names, groups.values(), changes, strict=True):
        if len(runs) > 1:
            name = f"{name} ({len(runs)} seeds)"
        paths_of_arm, folders_of_arm, names_of_arm = zip(*runs, strict=True)
        if len(set(map(_made_from, paths_of_arm))) > 1:
            listed = ", ".join(names_of_arm)
            difference = "have one recipe but not the same pool, lists or code; they count as seeds"
            say("compare", f"warning: {listed} {difference}")
        arm = Arm(
            name=name,
            folders=list(folders_of_arm),
            runs=list(names_of_arm),
            changes=changes_of_arm,
            seen=_mean_seen(paths_of_arm),
        )
        for stage, code in _code_of(paths_of_arm[0]).items():
            if first_code.get(stage, code) != code:
                arm.code.append(stage)
        for path, _, run in runs:
            record = read_record(layout.train_dir(path) / "config.json") or {}
            for change in record.get("changes", []):
                keys = ", ".join(str(Change(key, old, new)) for key, (old, new) in change["keys"].items())
                arm.schedules.append(f"{run} from step {change['from_step']:,} on: {keys}")
        arms.append(arm)
    return arms


def _result_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the folder of results of each path: of a run its folder evaluate.  Raises UserError; see find_arms."""
    missing = "does not exist; give runs, or folders that evaluate wrote"
    problems = [f"{path} {missing}" for path in paths if not path.exists()]
    if problems:  # what is compared of the others, curated lists or evaluations, is not known
        raise UserError(problems)
    folders = []
    for path in paths:
        folder = path / "evaluate"
        if not folder.is_dir():
            folder = path
        folders.append(folder)
        if not (folder / "results.jsonl").exists():
            step = "evaluate"
            if layout.recipe(path).is_file() and layout.latest_checkpoint(path) is None:
                step = "run"
            problems.append(f"{path}: results.jsonl is missing; {step} first: worldclip {step} {path}")
        elif folder != path:
            outdated = outdated_results(path).get("evaluate")
            if outdated is not None:
                problems.append(f"{folder} is out of date: {outdated}; run first: {command_line('evaluate', path)}")
    if problems:
        raise UserError(problems)
    return folders


def _mean_seen(run_dirs: Sequence[Path]) -> dict[str, float]:
    """Return the pairs that training saw by language, as the mean over runs; {} if one of them has no training."""
    total: Counter[str] = Counter()
    for run_dir in run_dirs:
        records = read_log(layout.train_dir(run_dir) / "seen.jsonl")
        if not records:
            return {}
        total.update(records[-1]["seen"])
    return {lang: number / len(run_dirs) for lang, number in total.most_common()}


def _made_from(run_dir: Path) -> tuple[object, ...]:
    """Return the digests of a run's pool, of its lists, and of the code of its stages."""
    facts: list[object] = list(_code_of(run_dir).items())
    for stage in ("pool", "metadata"):
        manifest = read_manifest(layout.stage_dir(run_dir, stage))
        facts.append(None if manifest is None else manifest["digest"])
    return tuple(facts)


def _code_of(run_dir: Path) -> dict[str, str]:
    """Return the digest of the code that made each finished stage of a run, where it is recorded."""
    code = {}
    for stage in DECIDING_STAGES:
        manifest = read_manifest(layout.stage_dir(run_dir, stage))
        if manifest is not None and "code" in manifest:
            code[stage] = manifest["code"]
    return code


def _names_by_keys(changes: Sequence[Sequence[Change]]) -> list[str]:
    """Return a name per arm, as `train.lr=0.001`; empty if the arms differ in no key, or in more than a name holds."""
    first = {change.name: change.old for change in itertools.chain.from_iterable(changes)}
    if not first:
        return []
    names = []
    for changes_of_arm in changes:
        values = first | {change.name: change.new for change in changes_of_arm}
        names.append(", ".join(f"{key}={value}" for key, value in values.items()))
    return names if max(map(len, names)) <= MAX_NAME else []


def _without_seeds(table: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a recipe without the keys called seed."""
    copy = {}
    for key, value in table.items():
        if key != "seed":
            copy[key] = _without_seeds(value) if isinstance(value, dict) else value
    return copy
