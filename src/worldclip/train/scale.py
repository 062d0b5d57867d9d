"""The scaling rule of the worldwide recipe: more samples and a larger batch, the English run's steps and rates.

arXiv:2507.22062: English is 44% of the pairs, so that 2.3 times as many are seen, in batches 2.3 times as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldclip.core.artifacts import read_json
from worldclip.core.errors import UserError
from worldclip.train.config import ScaleConfig, TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and in which batches a run trains."""

    samples_seen: int
    global_batch_size: int
    num_steps: int
    warmup_steps: int
    factor: float = 1.0
    """How much larger than the English run."""
    english_fraction: float | None = None


def scale(
    english_fraction: float, english_samples_seen: int, english_batch_size: int, *, multiple_of: int = 1
) -> tuple[float, int, int, int]:
    """(factor, samples seen, global batch, steps) of the worldwide run.

    factor = round(1 / english_fraction, 1); the batch is rounded down to a multiple of `multiple_of`, processes times
    parts of a batch.
    """
    factor = round(1 / english_fraction, 1)
    samples = round(factor * english_samples_seen)
    batch = int(factor * english_batch_size + 1e-6) // multiple_of * multiple_of
    return factor, samples, batch, max(1, round(samples / max(1, batch)))


def schedule(config: TrainConfig, run_dir: Path, world_size: int) -> Schedule:
    """The run's schedule: the recipe's numbers, or the rule's under train.scale.

    Raises UserError where the batch cannot be shared out evenly, or the English fraction is not known.
    """
    parts = world_size * config.accum_steps
    rule = config.scale
    if rule.is_set:
        assert rule.english_samples_seen is not None
        assert rule.english_batch_size is not None
        fraction = english_fraction(rule, run_dir)
        factor, samples, batch, steps = scale(
            fraction, rule.english_samples_seen, rule.english_batch_size, multiple_of=parts
        )
        warmup = round(config.warmup_samples / rule.english_batch_size)
    else:
        factor, fraction = 1.0, None
        samples, batch = config.samples_seen, config.global_batch_size
        steps, warmup = max(1, round(samples / batch)), round(config.warmup_samples / batch)
    return Schedule(
        samples_seen=samples,
        global_batch_size=batch,
        num_steps=steps,
        warmup_steps=warmup,
        factor=factor,
        english_fraction=fraction,
    )


def check_batch(batch: int, world_size: int, accum_steps: int) -> None:
    """Raises UserError where the processes cannot have equal parts of the batch."""
    parts = world_size * accum_steps
    if batch < 2 or batch % parts:
        nearest = max(1, batch // parts) * parts
        raise UserError(
            f"train.global_batch_size is {batch}; {world_size} processes in {accum_steps} parts each need a multiple "
            f"of {parts}, for example {nearest}"
        )


def english_fraction(rule: ScaleConfig, run_dir: Path) -> float:
    """The share of English: the recipe's, else that of the expected curated pairs."""
    if rule.english_fraction is not None:
        return rule.english_fraction
    report = read_json(run_dir / "curate" / "report.json")
    expected = {lang: row["expected_pairs"] for lang, row in report["languages"].items()}
    english, total = expected.get("en", 0.0), sum(expected.values())
    if not english:
        raise UserError(
            "train.scale.english_fraction is unset and the curated pairs hold no English; state the share, or "
            "train.samples_seen and train.global_batch_size in place of train.scale"
        )
    return english / total
