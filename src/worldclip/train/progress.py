"""The counts of a training: steps, pairs by language, replaced images, time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from worldclip.core.console import say
from worldclip.core.job import Report
from worldclip.train.checkpoint import read_state
from worldclip.train.distributed import World, gather_records
from worldclip.train.image_files import BadImages
from worldclip.train.loader import Batch
from worldclip.train.step import StepResult


@dataclass(kw_only=True)
class Progress:
    """The part of a checkpoint besides its tensors, summed over ranks.  The fields are keys of trainer/state.json."""

    step: int = 0
    """Steps taken; the next batch has this number."""
    updates: int = 0
    """Steps that changed the weights."""
    skipped_in_a_row: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """Pairs seen, by language."""
    bad: Counter[str] = field(default_factory=Counter)
    """Images replaced, by reason."""
    bad_keys: dict[str, str] = field(default_factory=dict)
    """Samples of them: detail by key."""
    elapsed_s: float = 0.0
    """Time in the loop, over all resumed parts."""
    loss_sum: float = 0.0
    """Sum of the finite losses since the last log record."""
    loss_count: int = 0

    def to_record(self) -> Report:
        """Return a JSON record that later steps do not change."""
        return {**vars(self), "seen": dict(self.seen), "bad": dict(self.bad), "bad_keys": dict(self.bad_keys)}

    def add_step(self, result: StepResult, step_s: float) -> None:
        """Count one step of step_s seconds."""
        self.step += 1
        self.elapsed_s += step_s
        if result.is_applied:
            self.updates += 1
            self.skipped_in_a_row = 0
            self.loss_sum += result.loss
            self.loss_count += 1
        else:
            self.skipped_in_a_row += 1


@dataclass
class RankCounts:
    """The counts of this rank since the last checkpoint."""

    seen: Counter[str] = field(default_factory=Counter)
    bad: BadImages = field(default_factory=BadImages)

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.seen.update(batch.langs)
        self.bad.update(batch.bad)

    def move_to(self, progress: Progress, world: World) -> None:
        """Add the counts of all ranks to `progress`, on every rank, and reset them."""
        total = BadImages(progress.bad, progress.bad_keys)
        for counts in gather_records(self, world):
            progress.seen.update(counts.seen)
            total.update(counts.bad)
        progress.bad_keys = total.samples
        self.seen = Counter()
        self.bad = BadImages()


def read_progress(checkpoint: Path | None, world: World) -> Progress:
    """Return the progress at a checkpoint, and print where training resumes."""
    if checkpoint is None:
        return Progress()
    record = read_state(checkpoint)
    del record["samples_seen"]
    if world.is_first:
        say("train", f"resumes from {checkpoint.name}")
    return Progress(**{**record, "seen": Counter(record["seen"]), "bad": Counter(record["bad"])})
