"""How long a run trains, in which batches, at which learning rate; the scaling rule of the worldwide recipe.

arXiv:2507.22062: English is 44% of the pairs.  The worldwide run therefore sees 2.3 times as many samples, in batches
2.3 times as large, with the steps and learning rates of the English run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from worldclip.contracts import layout
from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
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
    """Return the learning rate of step 0, 1, ...: linear warm-up to `peak`, then cosine decay to 0 at the last step."""
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
