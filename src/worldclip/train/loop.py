"""The training loop: from a checkpoint's state to the last step, the same weights however often it is cut.

Everything a step does is a function of its number and the weights before it: the batch comes from the plan, the
learning rate from the step, and no generator is used.  All ranks run it; the first one writes and speaks.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.train.checkpoint import Writer
from worldclip.train.config import TrainConfig
from worldclip.train.distill import Student, Teacher, resize
from worldclip.train.distributed import World, barrier, gather_records
from worldclip.train.loader import Batch, Loader, pick_samples
from worldclip.train.log import Log, finite
from worldclip.train.optim import learning_rate
from worldclip.train.scale import Schedule
from worldclip.train.step import Learner, StepResult, take_step
from worldclip.train.train_state import pieces_of

if TYPE_CHECKING:
    from worldclip.config import Recipe

MAX_SKIPPED_IN_A_ROW = 10  # steps whose loss or gradient is not finite, before the run stops
SIGNALS = {signal.SIGTERM: 143, signal.SIGUSR1: 138}  # save and exit, with a shell's exit code: 128 + number
TERMINATED = SIGNALS[signal.SIGTERM]


@dataclass(kw_only=True)
class State:
    """What a checkpoint remembers besides weights and moments."""

    step: int = 0
    """Steps done; the next batch is this one."""
    updates: int = 0
    """Steps that changed the weights."""
    skipped_in_a_row: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """Pairs seen, by language."""
    bad: Counter[str] = field(default_factory=Counter)
    """Images replaced, by reason."""
    bad_keys: dict[str, str] = field(default_factory=dict)
    elapsed_s: float = 0.0
    """Time in the loop, over all resumed parts."""
    loss_sum: float = 0.0
    """Of the finite losses since the last log record."""
    loss_count: int = 0

    @classmethod
    def of(cls, record: dict[str, Any]) -> State:
        return cls(**{**record, "seen": Counter(record["seen"]), "bad": Counter(record["bad"])})


@dataclass
class Tally:
    """What this rank has counted and not yet told the others."""

    seen: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    bad_keys: dict[str, str] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        self.seen.update(batch.langs)
        self.bad.update(batch.bad)
        if batch.bad_keys:
            self.bad_keys = pick_samples(self.bad_keys | batch.bad_keys)

    def tell(self, state: State, world: World) -> None:
        """Add all ranks' counts to `state`, on every rank, and begin anew."""
        for other in gather_records(vars(self), world):
            state.seen.update(other["seen"])
            state.bad.update(other["bad"])
            if other["bad_keys"]:
                state.bad_keys = pick_samples(state.bad_keys | other["bad_keys"])
        self.seen, self.bad, self.bad_keys = Counter(), Counter(), {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Where a run is and what it was asked for."""

    recipe: Recipe
    run_dir: Path
    schedule: Schedule
    write_model: Callable[[Path], object]
    """Fills a folder with configuration, tokenizer and preprocessing."""

    @property
    def train_dir(self) -> Path:
        return self.run_dir / "train"


def run_loop(
    run: Run,
    learner: Learner,
    loader: Loader,
    state: State,
    teacher: Teacher | None = None,
    students: Sequence[Student] = (),
) -> None:
    """Train from `state` to the last step, with checkpoints in RUN/train; `state` is kept up to date.

    Raises SystemExit after SIGTERM or SIGUSR1, the checkpoint written; UserError where the loss stays infinite.
    """
    config, schedule, world = learner.config, run.schedule, learner.world
    saved_at, tally = time.monotonic(), Tally()
    writer = Writer(run.train_dir, world, config.keep_last)
    log = Log(
        run.train_dir,
        config,
        schedule,
        state.step,
        learner.device,
        num_devices=world.size,
        is_silent=not world.is_first,
    )
    with closing(writer), _signals() as signalled, log:
        asked_at = time.perf_counter()
        for batch in loader.batches(state.step, schedule.num_steps):
            got_at = time.perf_counter()
            lr = learning_rate(state.step, schedule.num_steps, schedule.warmup_steps, config.lr)
            result = _learn(learner, batch, lr, teacher, students)
            done_at = time.perf_counter()
            tally.add(batch)
            _count(state, result, done_at - asked_at)
            log.add_step(done_at - asked_at, got_at - asked_at, len(batch.tokens.ids))
            _log_step(log, state, learner, schedule, result, lr, loader)
            asked_at = done_at
            _stop_if_diverged(state, config, writer)
            is_late = time.monotonic() - saved_at >= 60 * config.checkpoint_every_minutes
            is_late, code = _agree(world, is_late, signalled())
            to_evaluate = crosses(state.step, schedule, config.evaluate_every_samples)
            is_last = state.step == schedule.num_steps
            is_due = crosses(state.step, schedule, config.checkpoint_every_samples) or is_late
            if is_due or is_last or to_evaluate or code:
                tally.tell(state, world)
                for student in students:
                    student.save(state.step)
                _save(run, writer, learner, state, world)
                saved_at = time.monotonic()
                log.write_seen(state.step, state.step * schedule.global_batch_size, state.seen)
                log.say_saved(state.step, state.elapsed_s)
            if to_evaluate:
                _evaluate(run, writer, log, state, world)
                asked_at = time.perf_counter()
            if code and not is_last:
                _stop(writer, state, world, code)
        writer.wait()
        barrier(world)


def _learn(
    learner: Learner, batch: Batch, lr: float, teacher: Teacher | None, students: Sequence[Student]
) -> StepResult:
    """The model's step, and under a teacher those of further students, for one look of the teacher."""
    if teacher is None:
        return take_step(learner, batch, lr)
    taught = teacher.look(batch)
    size = learner.config.model.architecture().image_size  # crops are as large as the largest student's
    result = take_step(learner, replace(batch, images=resize(batch.images, size)), lr, taught)
    for student in students:
        student.step(batch, lr, taught)
    return result


def _count(state: State, result: StepResult, step_s: float) -> None:
    state.step += 1
    state.elapsed_s += step_s
    state.updates += result.is_applied
    state.skipped_in_a_row = 0 if result.is_applied else state.skipped_in_a_row + 1
    if result.is_applied:
        state.loss_sum += result.loss
        state.loss_count += 1


def _log_step(
    log: Log, state: State, learner: Learner, schedule: Schedule, result: StepResult, lr: float, loader: Loader
) -> None:
    if not log.is_due(state.step):
        log.advance(state.step)
        return
    samples = state.step * schedule.global_batch_size
    log.write_step(
        {
            "step": state.step,
            "samples_seen": samples,
            "epoch": round(loader.epochs_of(samples), 4),
            "loss": state.loss_sum / state.loss_count if state.loss_count else None,
            "lr": lr,
            "logit_scale": float(learner.towers.clip.logit_scale.detach().exp()),
            "grad_norm": finite(result.grad_norm),
            "elapsed_s": state.elapsed_s,
        }
    )
    state.loss_sum, state.loss_count = 0.0, 0


def _stop_if_diverged(state: State, config: TrainConfig, writer: Writer) -> None:
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        writer.wait()
        raise UserError(
            f"train.lr is {config.lr}; the loss or its gradient was not finite for {state.skipped_in_a_row} steps in a "
            f"row, up to step {state.step}: the last checkpoint before them stands.  Lower it and give --from train"
        )


def crosses(step: int, schedule: Schedule, every: int) -> bool:
    """Whether this step completes another `every` samples; 0: never."""
    batch = schedule.global_batch_size
    return every > 0 and step * batch // every > (step - 1) * batch // every


def _agree(world: World, is_late: bool, code: int) -> tuple[bool, int]:
    """The first rank's clock, and any rank's signal: all ranks must stop for a checkpoint at the same step."""
    if world.size == 1:
        return is_late, code
    flags = torch.tensor([int(is_late and world.is_first), code])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags[0]), int(flags[1])


def _save(run: Run, writer: Writer, learner: Learner, state: State, world: World) -> None:
    samples = state.step * run.schedule.global_batch_size
    record = {**vars(state), "seen": dict(state.seen), "bad": dict(state.bad), "bad_keys": dict(state.bad_keys)}
    record |= {"samples_seen": samples, "threads": torch.get_num_threads(), "world_size": world.size}
    step = record.pop("step")
    writer.start(step, pieces_of(learner), record, run.write_model)


def _evaluate(run: Run, writer: Writer, log: Log, state: State, world: World) -> None:
    """On the first rank, from the checkpoint that was just written; the others wait."""
    from worldclip.train.evaluation import MEAN, evaluate_checkpoint

    writer.wait()
    barrier(world)
    if world.is_first:
        scores = evaluate_checkpoint(run.recipe, run.run_dir, state.step)
        log.write_scores(state.step, scores)
        say("train", f"step {state.step} scores {scores[MEAN]:.4f} in the mean of its data sets")
    barrier(world)


def _stop(writer: Writer, state: State, world: World, code: int) -> None:
    """Leave, after a signal, as soon as the checkpoint is whole on disk."""
    writer.wait()
    barrier(world)
    if world.is_first:
        name = "SIGTERM" if code == TERMINATED else "SIGUSR1"
        say("train", f"{name}: step {state.step} is saved; the same command goes on from there")
    raise SystemExit(code)


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """While open, SIGTERM and SIGUSR1 are noted rather than fatal; yields the exit code of the one that came, else 0.

    Outside the main thread, where Python delivers none: always 0.
    """
    codes = [0]

    def note(number: int, frame: FrameType | None) -> None:
        codes.append(SIGNALS[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: codes[-1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
