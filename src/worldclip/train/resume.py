"""config.json of a training that goes on: its schedule, which keys may change at a resume, and the notes of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints, step_of
from worldclip.core import artifacts
from worldclip.core.changes import Change, changed_keys, name_changes
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Job, Report, Run
from worldclip.train.config import TrainConfig
from worldclip.train.schedule import Schedule, check_batch, learning_rate, plan_schedule

CHANGEABLE = ("train.lr", "train.samples_seen", "train.skip_samples")  # at a resume; config.json notes each change


def fixed_changes(older: Report, config: Report) -> list[Change]:
    """Return the changed keys of a config that no resume may change."""
    return [change for change in changed_keys(older, config) if change.name not in CHANGEABLE]


def refused_changes(run_dir: Path, changes: Sequence[Change | str]) -> list[str]:
    """Return the problems of going on with a training under another config or other inputs."""
    train_dir = layout.train_dir(run_dir)
    if not changes or not checkpoints(train_dir):
        return []
    remedy = f"{train_dir} has checkpoints from before this change, which are never overwritten"
    return [
        *map(str, changes),
        f"{remedy}; undo it, choose another --out, or move {train_dir} away (mv) and train anew",
    ]


def find_record(run: Run, job: Job) -> Report | None:
    """Return config.json of the training that goes on; None: it begins.

    Changes of CHANGEABLE keys are noted in it.  Raises UserError if there are checkpoints of another config or other
    inputs.
    """
    path = job.folder / "config.json"
    if not path.exists():
        if checkpoints(job.folder):
            raise UserError(
                f"{path} is missing although there are checkpoints; restore it, or move {job.folder} away (mv) and "
                "train anew"
            )
        return None
    record: Report = artifacts.read_json(path)
    changes = changed_keys(record["config"], job.config)
    fixed = fixed_changes(record["config"], job.config)
    fixed += changed_keys(record["inputs"], job.inputs, "input")
    problems = refused_changes(run.dir, fixed)
    if problems:
        raise UserError(problems)
    if not changes and not fixed:
        return record
    steps = [step_of(checkpoint) for checkpoint in checkpoints(job.folder)]
    if not steps:
        return None
    return _note_changes(run.section(TrainConfig), job, record, changes, steps[-1])


def find_schedule(run: Run, record: Report | None, world_size: int) -> Schedule:
    """Return the recorded schedule, so that the batch size does not depend on the present number of processes.

    record: config.json of the training that goes on; None: the schedule that the recipe asks for counts.
    """
    config = run.section(TrainConfig)
    if record:
        schedule = Schedule(**record["schedule"])
    else:
        schedule = plan_schedule(config, run.dir, world_size)
    check_batch(schedule.global_batch_size, world_size, config.accum_steps)
    return schedule


def _note_changes(config: TrainConfig, job: Job, record: Report, changes: Sequence[Change], step: int) -> Report:
    """Return config.json with changed keys and their schedule, from the checkpoint of `step` on.

    Raises UserError where no step is left, and for a change among the samples that were seen.
    """
    from worldclip.train.plan import skip

    schedule = Schedule(**record["schedule"])
    if not config.scale.is_set:
        num_steps = max(1, round(config.samples_seen / schedule.global_batch_size))
        schedule = replace(schedule, samples_seen=config.samples_seen, num_steps=num_steps)
    samples = step * schedule.global_batch_size
    if step >= schedule.num_steps:
        raise UserError(
            f"{name_changes(changes)}: {samples:,} samples are seen already; raise train.samples_seen, or remove the "
            "checkpoints after the step from which the change is to apply"
        )
    for change in changes:
        if change.name == "train.skip_samples":
            old = {tuple(stretch) for stretch in change.old or ()}
            new = {tuple(stretch) for stretch in change.new or ()}
            position = int(skip(np.array([samples]), sorted(old))[0])
            if any(first < position for first, _ in old ^ new):
                raise UserError(f"{change}: samples before {position} are seen already; change only later stretches")
    noted = {"from_step": step, "keys": {change.name: [change.old, change.new] for change in changes}}
    values = {"config": job.config, "schedule": asdict(schedule), "changes": [*record.get("changes", []), noted]}
    return {**record, **values}


def apply_changes(job: Job, record: Report) -> None:
    """Write config.json if it notes changes, and print them with the learning rate that they lead to."""
    older = artifacts.read_json(job.folder / "config.json")
    if older == record:
        return
    artifacts.write_json(job.folder / "config.json", record)
    note = record["changes"][-1]
    step = note["from_step"]
    before = _learning_rate(older, step)
    now = _learning_rate(record, step)
    changed = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in note["keys"].items())
    say("train", f"from step {step} on {changed}; learning rate {now:.3g}, was {before:.3g}")


def _learning_rate(record: Report, step: int) -> float:
    schedule = Schedule(**record["schedule"])
    return learning_rate(step, schedule.num_steps, schedule.warmup_steps, record["config"]["train"]["lr"])
