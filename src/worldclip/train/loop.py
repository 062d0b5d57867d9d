"""The training loop: from a checkpoint's state to the last step, the same weights however often it is cut.

Everything a step does is a function of its number and the weights before it: the batch comes from the plan, the
learning rate from the step, and no generator is used.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldclip.errors import UserError
from worldclip.execute import say
from worldclip.formats import write_text
from worldclip.model import (
    MAX_LOGIT_SCALE,
    count_parameters,
    image_features,
    image_processor,
    normalise_pixels,
    text_features,
)
from worldclip.train.checkpoint import save_checkpoint
from worldclip.train.config import TrainConfig
from worldclip.train.loader import Batch, Loader, pick_samples
from worldclip.train.loss import contrastive_loss
from worldclip.train.optim import learning_rate
from worldclip.train.plan import num_steps

if TYPE_CHECKING:
    from transformers import MetaClip2Model

LOG_EVERY_STEPS = 10
MAX_SKIPPED_IN_A_ROW = 10  # steps whose loss or gradient is not finite, before the run stops
TEXT_CHUNKS = 4  # length-sorted chunks that the texts of a batch run in
TERMINATED = 143  # exit code after SIGTERM, as a shell gives it: 128 + 15


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


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step's numbers."""

    loss: float
    grad_norm: float
    is_applied: bool


def take_step(
    model: MetaClip2Model, optimizer: torch.optim.Optimizer, batch: Batch, *, lr: float, precision: str
) -> StepResult:
    """Forward, backward, update; a step whose loss or gradient is not finite changes nothing."""
    device = model.logit_scale.device
    pixels = normalise_pixels(batch.images.to(device, non_blocking=True))
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        image_BD = image_features(model, pixels)
        text_BD = text_features(model, batch.tokens, TEXT_CHUNKS)
    loss = contrastive_loss(image_BD, text_BD, model.logit_scale.exp())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    grad_norm = float(torch.nn.utils.get_total_norm(gradients))
    loss_value = float(loss.detach())
    is_finite = math.isfinite(loss_value) and math.isfinite(grad_norm)
    if is_finite:
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    return StepResult(loss_value, grad_norm, is_finite)


def run_loop(
    train_dir: Path,
    config: TrainConfig,
    model: MetaClip2Model,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    state: State,
) -> None:
    """Train from `state` to the last step, with checkpoints in train_dir; `state` is kept up to date.

    Raises SystemExit(143) after SIGTERM, the checkpoint written; UserError where the loss stays infinite.
    """
    total = num_steps(config.samples_seen, config.global_batch_size)
    warmup = round(config.warmup_samples / config.global_batch_size)
    saved_at, saved_step = time.monotonic(), state.step
    with _sigterm() as is_terminated, _Log(train_dir, config, total, state.step) as log:
        asked_at = time.perf_counter()
        for batch in loader.batches(state.step, total):
            got_at = time.perf_counter()
            lr = learning_rate(state.step, total, warmup, config.lr)
            result = take_step(model, optimizer, batch, lr=lr, precision=config.precision)
            done_at = time.perf_counter()
            _count(state, batch, result, done_at - asked_at)
            log.add(state, model, result, lr, done_at - asked_at, got_at - asked_at, loader.epoch_length)
            asked_at = done_at
            _stop_if_diverged(state, config)
            crossed = _crosses(state.step, config)
            is_due = crossed or time.monotonic() - saved_at >= 60 * config.checkpoint_every_minutes
            if is_due or state.step == total or is_terminated():
                _save(train_dir, config, model, optimizer, loader, state)
                saved_at, saved_step = time.monotonic(), state.step
                log.say_progress(state)
            if is_terminated() and state.step < total:
                say("train", f"SIGTERM: step {saved_step} is saved; the same command goes on from there")
                raise SystemExit(TERMINATED)


def _count(state: State, batch: Batch, result: StepResult, step_s: float) -> None:
    state.step += 1
    state.seen.update(batch.langs)
    state.bad.update(batch.bad)
    if batch.bad_keys:
        state.bad_keys = pick_samples(state.bad_keys | batch.bad_keys)
    state.elapsed_s += step_s
    state.updates += result.is_applied
    state.skipped_in_a_row = 0 if result.is_applied else state.skipped_in_a_row + 1
    if result.is_applied:
        state.loss_sum += result.loss
        state.loss_count += 1


def _stop_if_diverged(state: State, config: TrainConfig) -> None:
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise UserError(
            f"train.lr is {config.lr}; the loss or its gradient was not finite for {state.skipped_in_a_row} steps in a "
            f"row, up to step {state.step}: the last checkpoint before them stands.  Lower it and give --from train"
        )


def _crosses(step: int, config: TrainConfig) -> bool:
    """Whether this step completes another checkpoint_every_samples."""
    every, batch = config.checkpoint_every_samples, config.global_batch_size
    return step * batch // every > (step - 1) * batch // every


def _save(
    train_dir: Path,
    config: TrainConfig,
    model: MetaClip2Model,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    state: State,
) -> None:
    def write_processor(folder: Path) -> None:
        loader.tokenizer.save(folder)
        image_processor(loader.image_size).save_pretrained(folder)

    save_checkpoint(
        train_dir,
        state.step,
        model=model,
        optimizer=optimizer,
        state=vars(state) | {"samples_seen": state.step * config.global_batch_size, "threads": torch.get_num_threads()},
        write_processor=write_processor,
        keep_last=config.keep_last,
    )


@contextmanager
def _sigterm() -> Iterator[Any]:
    """While open, SIGTERM is noted rather than fatal; yields whether it came.  Outside the main thread: never."""
    noted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()

    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


class _Log:
    """log.jsonl (cut back to the step that training goes on from), TensorBoard, and a progress bar."""

    def __init__(self, train_dir: Path, config: TrainConfig, total: int, first_step: int) -> None:
        self.path, self.tensorboard_dir = train_dir / "log.jsonl", train_dir / "tensorboard"
        self.config, self.total, self.first_step = config, total, first_step
        self._since_s = self._wait_s = 0.0
        self._steps = 0

    def __enter__(self) -> _Log:
        from torch.utils.tensorboard import SummaryWriter

        kept = [record for record in read_log(self.path) if record["step"] <= self.first_step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file: TextIO = open(self.path, "a", encoding="utf-8")
        self._board = SummaryWriter(str(self.tensorboard_dir), purge_step=self.first_step + 1)
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("    train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar.start()
        self._task = self._bar.add_task("train", total=self.total, completed=self.first_step, news="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._board.close()
        self._file.close()

    def add(
        self,
        state: State,
        model: MetaClip2Model,
        result: StepResult,
        lr: float,
        step_s: float,
        wait_s: float,
        epoch_length: int,
    ) -> None:
        """Take in a step; each LOG_EVERY_STEPS and the last become a record."""
        self._since_s += step_s
        self._wait_s += wait_s
        self._steps += 1
        if state.step % LOG_EVERY_STEPS and state.step != self.total:
            self._bar.update(self._task, completed=state.step)
            return
        samples = state.step * self.config.global_batch_size
        record = {
            "step": state.step,
            "samples_seen": samples,
            "epoch": round(samples / epoch_length, 4),
            "loss": state.loss_sum / state.loss_count if state.loss_count else None,
            "lr": lr,
            "logit_scale": float(model.logit_scale.detach().exp()),
            "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,
            "samples_per_s": self._steps * self.config.global_batch_size / self._since_s,
            "data_wait_fraction": self._wait_s / self._since_s,
            "elapsed_s": state.elapsed_s,
        }
        self._write(record)
        state.loss_sum, state.loss_count = 0.0, 0
        self._since_s, self._wait_s, self._steps = 0.0, 0.0, 0
        loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
        self._news = f"loss {loss}, {record['samples_per_s']:,.0f} samples/s"
        self._bar.update(self._task, completed=state.step, news=self._news)

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name in ("loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction"):
            if record[name] is not None:
                self._board.add_scalar(name, record[name], record["step"])

    def say_progress(self, state: State) -> None:
        """One line at a checkpoint, for those who read a log rather than a bar."""
        left_s = state.elapsed_s / state.step * (self.total - state.step)
        say(
            "train",
            f"step {state.step} of {self.total} is saved; {getattr(self, '_news', '')}; {left_s / 60:.1f} min left",
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def describe(model: MetaClip2Model, device: torch.device, total: int, loader: Loader) -> str:
    """What is about to be trained, in one line."""
    return (
        f"{count_parameters(model) / 1e6:.1f}M parameters, {loader.tokenizer.vocab_size:,} tokens, {total:,} steps on "
        f"{device.type}; {loader.epoch_length:,} pairs an epoch"
        + (f", {loader.num_without_image:,} kept without an image" if loader.num_without_image else "")
    )
