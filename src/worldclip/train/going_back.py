"""Go back to a kept checkpoint and train on from it under changed keys: train.resume_from.

RUN/train/config.json then lists the parts of the run, and newer checkpoints and the logs are in the same folder:

    RUN/train/config.json                        parts: [{from_step, changes, set_aside}], oldest first
    RUN/train/set_aside/<step>_<number>/         step_*, students/<name>/step_*, best.json, copies of the logs
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints, step_folder, step_of
from worldclip.core import artifacts
from worldclip.core.artifacts import MANIFEST
from worldclip.core.changes import Change, changed_keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Report, Run
from worldclip.train.checkpoint import find_corruption
from worldclip.train.config import TrainConfig
from worldclip.train.plan import skip
from worldclip.train.scores import MEAN, update_best

CHANGEABLE = ("lr", "beta1", "beta2", "eps", "weight_decay", "max_grad_norm", "seed", "skip_samples")


def go_back(run: Run, config: Report) -> None:
    """Set aside all checkpoints after step train.resume_from, and record the changed keys as a part of the run.

    config: the run's present one.  Does nothing where the newest part is this one: a repeated call trains on.  Raises
    UserError for a step without a checkpoint, and for keys that cannot change in the middle of a run.
    """
    train_dir, step = layout.train_dir(run.dir), run.section(TrainConfig).resume_from
    assert step is not None
    if problems := [*going_back_problems(run, config)]:
        raise UserError(problems)
    record = artifacts.read_json(train_dir / "config.json")
    changes = changed_keys(record["config"], config)
    parts = record.get("parts", [])
    if not changes and parts and parts[-1]["from_step"] == step:
        return
    if problem := find_corruption(step_folder(train_dir, step)):
        raise UserError(f"train.resume_from = {step}: the checkpoint is corrupt ({problem}); go back to another one")
    (train_dir / MANIFEST).unlink(missing_ok=True)
    aside = _new_folder(train_dir, step)
    _set_aside(train_dir, step, aside)
    part = {
        "from_step": step,
        "changes": {change.name: [change.old, change.new] for change in changes},
        "set_aside": aside.name,
    }
    artifacts.write_json(train_dir / "config.json", {**record, "config": config, "parts": [*parts, part]})
    what = ", ".join(map(str, changes)) or "nothing changes"
    say("train", f"goes back to step {step} ({what}); newer checkpoints and logs are in {aside}")


def going_back_problems(run: Run, config: Report) -> Iterator[str]:
    """Yield why training cannot go back to train.resume_from under the present config."""
    train, train_dir = run.section(TrainConfig), layout.train_dir(run.dir)
    step, key = train.resume_from, f"train.resume_from = {train.resume_from}"
    assert step is not None
    if not (train_dir / "config.json").exists():
        yield f"{key}: {train_dir} has no training to go back in; leave it out"
        return
    for folder in (train_dir, *(train_dir / "students" / name for name in train.distill.students)):
        if not step_folder(folder, step).exists():
            steps = ", ".join(str(step_of(path)) for path in checkpoints(folder)) or "none"
            yield f"{key}: {folder} has no checkpoint of this step; it has those of steps {steps}"
            return
    record = artifacts.read_json(train_dir / "config.json")
    for change in changed_keys(record["config"], config):
        if change.name not in [f"train.{name}" for name in CHANGEABLE]:
            yield f"{change}: cannot change in the middle of a run, only {', '.join(CHANGEABLE)} can; undo it"
        elif change.name == "train.skip_samples":
            yield from _past_stretches(change, step * record["schedule"]["global_batch_size"])


def _past_stretches(change: Change, samples_seen: int) -> Iterator[str]:
    """Yield the stretches that begin among the samples that were seen before, whose pairs cannot be unseen."""
    old, new = ({tuple(stretch) for stretch in stretches or ()} for stretches in (change.old, change.new))
    first_left = int(skip(np.array([samples_seen]), sorted(old))[0])
    for first, last in sorted(old ^ new):
        if first < first_left:
            yield (
                f"train.skip_samples: [{first}, {last}] begins before sample {first_left}, where this part of the run "
                "begins; go back to an earlier checkpoint"
            )


def _new_folder(train_dir: Path, step: int) -> Path:
    """Return a folder of RUN/train/set_aside that does not exist."""
    number = 1
    while (folder := train_dir / "set_aside" / f"{step:09}_{number}").exists():
        number += 1
    folder.mkdir(parents=True)
    return folder


def _set_aside(train_dir: Path, step: int, aside: Path) -> None:
    """Move the checkpoints after a step, the newest first, and the run's own before those of students.

    A kill leaves at each moment a newest checkpoint that its students have too.
    """
    best = layout.best_of(train_dir)
    for log in (layout.log_file(train_dir), train_dir / "seen.jsonl", train_dir / "validation.jsonl"):
        if log.exists():
            shutil.copy2(log, aside / log.name)  # a resumed run removes the records after its step
    for folder in (train_dir, *train_dir.glob("students/*")):
        for checkpoint in reversed(checkpoints(folder)):
            if step_of(checkpoint) > step:
                moved = aside / checkpoint.relative_to(train_dir)
                moved.parent.mkdir(parents=True, exist_ok=True)
                os.replace(checkpoint, moved)
    if best is not None and step_of(best) > step:
        os.replace(train_dir / layout.BEST, aside / layout.BEST)
        for checkpoint in checkpoints(train_dir):
            if layout.step_scores(checkpoint).exists():
                update_best(checkpoint, artifacts.read_json(layout.step_scores(checkpoint))["scores"][MEAN])
