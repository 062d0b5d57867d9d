"""How long a run trains, in which batches, at which learning rate, and what of it may change at a resume.

The scaling rule of the worldwide recipe, arXiv:2507.22062: English is 44% of the pairs.  The worldwide run therefore
sees 2.3 times as many samples, in batches 2.3 times as large, with the steps and learning rates of the English run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.layout import checkpoints, step_of
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.changes import Change, changed_keys, name_changes
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Job, Record, Report, Run
from worldclip.model.precision import Precision
from worldclip.train.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Length and batch size of a run."""

    samples_seen: int
    global_batch_size: int
    num_steps: int
    warmup_steps: int
    factor: float = 1.0
    """Samples and batch size relative to the English run."""
    english_fraction: float | None = None
    precision: Precision | None = None
    """That the towers run in since the first start; None: before it, or as train.precision says."""
    precision_by: str | None = None
    """The reason for it under train.precision = "auto": the device's hardware for bfloat16, "" for none; --from-run."""


def trained_precision(run_dir: Path) -> Precision | None:
    """Return the precision that a run trains in since its first start; before it, that of the run of --from-run."""
    path = layout.train_dir(run_dir) / "config.json"
    if not path.exists():
        return branched_precision(run_dir)
    return Schedule(**read_json(path)["schedule"]).precision


def branched_precision(run_dir: Path) -> Precision | None:
    """Return the precision of the run that --from-run began with; None: there was none, or it had not trained."""
    path = layout.branched(run_dir)
    if not path.exists():
        return None
    precision: Precision | None = read_json(path)["precision"]
    return precision


def learning_rate(step: int, num_steps: int, num_warmup_steps: int, peak: float) -> float:
    """Return the learning rate of step 0, 1, ...: linear warm-up to `peak`, then cosine decay to 0 after the last."""
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * progress))


def crosses(step: int, schedule: Schedule, every: int) -> bool:
    """Return whether this step completes another `every` samples; 0: never."""
    batch = schedule.global_batch_size
    return every > 0 and step * batch // every > (step - 1) * batch // every


def plan_schedule(config: TrainConfig, run_dir: Path, world_size: int) -> Schedule:
    """Return the run's schedule: the recipe's numbers, or the scaling rule's under train.scale.

    The share of English is the recipe's, else that of the expected curated pairs.  Raises UserError if neither is
    known.
    """
    rule = config.scale
    if not rule.is_set:
        batch = config.global_batch_size
        return Schedule(
            samples_seen=config.samples_seen,
            global_batch_size=batch,
            num_steps=max(1, round(config.samples_seen / batch)),
            warmup_steps=round(config.warmup_samples / batch),
        )
    assert rule.english_samples_seen is not None
    assert rule.english_batch_size is not None
    fraction = rule.english_fraction
    if fraction is None:
        report = read_json(layout.stage_report(run_dir, "curate"))
        expected = {lang: row["expected_pairs"] for lang, row in report["languages"].items()}
        if not expected.get("en"):
            raise UserError(
                "train.scale.english_fraction is unset and the curated pairs contain no English: set it, or set "
                "train.samples_seen and train.global_batch_size instead of train.scale"
            )
        fraction = expected["en"] / sum(expected.values())
    factor, samples, batch, steps = scale(
        fraction, rule.english_samples_seen, rule.english_batch_size, multiple_of=world_size * config.accum_steps
    )
    return Schedule(
        samples_seen=samples,
        global_batch_size=batch,
        num_steps=steps,
        warmup_steps=round(config.warmup_samples / rule.english_batch_size),
        factor=factor,
        english_fraction=fraction,
    )


def scale(
    english_fraction: float, english_samples_seen: int, english_batch_size: int, *, multiple_of: int = 1
) -> tuple[float, int, int, int]:
    """Return (factor, samples seen, global batch size, steps) of the worldwide run.

    factor = round(1 / english_fraction, 1), as the paper rounds 1 / 0.44 to 2.3.  The batch size is rounded down to a
    multiple of `multiple_of`, world size times accumulation steps.
    """
    factor = round(1 / english_fraction, 1)
    samples = round(factor * english_samples_seen)
    # 1e-6: a product such as 2.3 * 100 = 229.99999999999997 must not lose a whole pair
    batch = int(factor * english_batch_size + 1e-6) // multiple_of * multiple_of
    return factor, samples, batch, max(1, round(samples / max(1, batch)))


def check_batch(batch: int, world_size: int, accum_steps: int) -> None:
    """Raise UserError unless the ranks and their accumulation steps can share the batch equally."""
    parts = world_size * accum_steps
    if batch < 2 or batch % parts:
        nearest = max(1, batch // parts) * parts
        counts = [count for count in range(1, batch + 1) if batch % (count * accum_steps) == 0]
        lower = [count for count in counts if count <= world_size]
        higher = [count for count in counts if count > world_size]
        remedy = " or ".join(f"{count:,}" for count in [*lower[-1:], *higher[:1]])
        raise UserError(
            f"train.global_batch_size = {batch}: must be a multiple of {parts} ({world_size} processes times "
            f"{accum_steps} accumulation steps), for example {nearest}; or use {remedy or 1} processes"
        )


# a training that goes on

CHANGEABLE = ("train.lr", "train.samples_seen", "train.skip_samples")  # at a resume; config.json notes each change


def fixed_changes(older: Record, config: Record) -> list[Change]:
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
    record: Report = read_json(path)
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
    older = read_json(job.folder / "config.json")
    if older == record:
        return
    write_json(job.folder / "config.json", record)
    note = record["changes"][-1]
    step = note["from_step"]
    before = _learning_rate(older, step)
    now = _learning_rate(record, step)
    changed = ", ".join(f"{key} was {old}, is {new}" for key, (old, new) in note["keys"].items())
    say("train", f"from step {step} on {changed}; learning rate {now:.3g}, was {before:.3g}")


def _learning_rate(record: Report, step: int) -> float:
    schedule = Schedule(**record["schedule"])
    return learning_rate(step, schedule.num_steps, schedule.warmup_steps, record["config"]["train"]["lr"])
