"""The counts of a training: the numbers of a step; steps, pairs by language, replaced images, time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from worldclip.core.console import say
from worldclip.core.job import Report
from worldclip.train.checkpoint import read_state
from worldclip.train.distributed import World, all_reduce, gather_records
from worldclip.train.image_files import BadImages
from worldclip.train.loader import Batch
from worldclip.train.signals import NUM_VOTES, Requests


@dataclass(slots=True)
class Message:
    """The words of a rank to all ranks in a step; they ride in the exchange of the scalars."""

    requests: Requests = field(default_factory=Requests)
    idle_since: float | None = None
    """time.perf_counter when this rank's time began, which ends with its features; None: busy_s is known."""
    busy_s: float = 0.0
    """Seconds from the end of the step before to the first exchange with other ranks."""

    def note_features(self) -> None:
        """Note that the features are computed: they are exchanged next."""
        if self.idle_since is not None:
            self.busy_s = time.perf_counter() - self.idle_since

    def exchange(self, scalars: Sequence[torch.Tensor], world: World) -> torch.Tensor:
        """Replace scalars by their means over ranks.  Return one vector: the mean votes, then busy_s of each rank.

        With one process it has only the votes.  All of it is one all-reduce, since each collective costs a step the
        latency of the whole network.
        """
        votes = scalars[0].new_zeros(NUM_VOTES)
        for i, is_wanted in enumerate(self.requests.votes()):
            if is_wanted:
                votes[i].fill_(1)  # a tensor of Python's numbers would be copied from pageable memory, which waits
        if world.size == 1:
            return votes
        busy_R = votes.new_zeros(world.size)
        busy_R[world.rank].fill_(self.busy_s * world.size)  # the mean over ranks is busy_s again
        values = torch.cat([torch.stack([scalar.detach() for scalar in scalars]), votes, busy_R])
        means = all_reduce(values, world).div_(world.size)
        for scalar, mean in zip(scalars, means, strict=False):
            scalar.copy_(mean)
        return means[len(scalars) :]


@dataclass(frozen=True, slots=True)
class StepResult:
    """The numbers of one step, the same on all ranks."""

    loss: float
    grad_norm: float
    is_applied: bool
    """Whether the step changed the weights: loss and gradient were finite."""
    logit_scale: float
    """The factor, after the step."""
    requests: Requests
    """What any rank asks."""
    busy_s: tuple[float, ...]
    """By rank, the seconds before its first exchange with others; of one process empty."""


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A step whose numbers a GPU may still compute."""

    numbers: torch.Tensor
    """(4 + votes + ranks,) float32 in this machine's memory; of one process without its rank."""
    copied: torch.cuda.Event | None
    """Comes after the copy of the numbers; None: they are there."""

    @classmethod
    def of(cls, *parts: torch.Tensor) -> LaunchedStep:
        """Start to copy the numbers, scalars and vectors, from their device."""
        numbers = torch.cat([part.reshape(-1).float() for part in parts])
        if numbers.device.type != "cuda":
            return cls(numbers.cpu(), None)
        pinned = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        pinned.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return cls(pinned, copied)

    def read(self) -> StepResult:
        """Wait for the numbers and return them."""
        if self.copied is not None:
            self.copied.synchronize()
        loss, grad_norm, is_applied, logit_scale, *message = self.numbers.tolist()
        requests = Requests.any_of(message[:NUM_VOTES])
        return StepResult(loss, grad_norm, bool(is_applied), logit_scale, requests, tuple(message[NUM_VOTES:]))


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
