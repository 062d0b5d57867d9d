"""Logs of training: progress bar, log.jsonl, seen.jsonl, TensorBoard; Weights & Biases if the recipe says.

A resumed run first removes the records after the step that it resumes from.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldclip.contracts import layout
from worldclip.core.artifacts import write_json_lines, write_text
from worldclip.core.console import BAR_WIDTH, is_quiet, say
from worldclip.core.errors import require
from worldclip.core.job import Record, Report
from worldclip.train.budget import flops_per_pair
from worldclip.train.config import TrainConfig
from worldclip.train.device import peak_memory_bytes
from worldclip.train.distributed import World
from worldclip.train.schedule import Schedule

LOG_EVERY_STEPS = 10
LOGS = ("log.jsonl", "seen.jsonl", "validation.jsonl")
CURVES = (  # keys of a record that TensorBoard and Weights & Biases draw
    *("loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction", "unreadable_fraction"),
    *("slowest_s", "flops_per_s", "memory_bytes"),
)


class Log:
    """The logs of rank 0; the other ranks have a silent one."""

    def __init__(
        self,
        train_dir: Path,
        config: TrainConfig,
        schedule: Schedule,
        first_step: int,
        device: torch.device,
        world: World,
        hosts: Sequence[str] = ("",),  # of each rank
    ) -> None:
        self.train_dir = train_dir
        self.config = config
        self.schedule = schedule
        self.first_step = first_step
        self.device = device
        self.hosts = hosts
        self.num_devices = world.size
        self.is_silent = not world.is_first
        self._summary = ""
        self._reset_speed()

    def _reset_speed(self) -> None:
        self._elapsed_s = self._wait_s = 0.0
        self._steps = self._tokens = self._unreadable = 0
        self._busy_s = [0.0] * self.num_devices

    def __enter__(self) -> Log:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("    train"),
            BarColumn(BAR_WIDTH),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            TextColumn("{task.fields[summary]}"),
            console=console,
            disable=self.is_silent or is_quiet() or not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=self.schedule.num_steps, completed=self.first_step, summary="")
        if self.is_silent:
            return self
        from torch.utils.tensorboard import SummaryWriter

        self._lines = {name: Lines(self.train_dir / name, self.first_step) for name in LOGS}
        self._board: Any = SummaryWriter(str(layout.tensorboard_dir(self.train_dir)), purge_step=self.first_step + 1)
        self._wandb: Any = None
        if self.config.wandb is not None:
            wandb = require("wandb", extra="wandb")
            path = self.train_dir / "wandb_id"
            if not path.exists():  # resumed parts log to the same run
                write_text(path, secrets.token_hex(8))
            run_id = path.read_text("utf-8")
            self._wandb = wandb.init(project=self.config.wandb, dir=str(self.train_dir), id=run_id, resume="allow")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self.is_silent:
            return
        if self._board is not None:
            self._board.close()
        for lines in self._lines.values():
            lines.close()
        if self._wandb is not None:
            self._wandb.finish()

    def add_step(
        self, step_s: float, wait_s: float, num_tokens: int, num_unreadable: int = 0, busy_s: Sequence[float] = ()
    ) -> None:
        """Count a step's time, the part of it spent waiting for data, tokens and unreadable images of this rank.

        busy_s: how long each rank took before its first exchange with others; empty: there are none.
        """
        self._elapsed_s += step_s
        self._wait_s += wait_s
        self._steps += 1
        self._tokens += num_tokens
        self._unreadable += num_unreadable
        if busy_s:
            self._busy_s = [total + seconds for total, seconds in zip(self._busy_s, busy_s, strict=True)]

    def is_due(self, step: int) -> bool:
        """Return whether this step gets a record."""
        return step % LOG_EVERY_STEPS == 0 or step == self.schedule.num_steps

    def advance(self, step: int) -> None:
        """Move the progress bar."""
        self._bar.update(self._task, completed=step)

    def write_step(self, step_record: Report, elapsed_s: float) -> None:
        """Write a record, with the speed and memory since the one before.  elapsed_s: time of the whole run."""
        pairs = self._steps * self.schedule.global_batch_size
        mean_length = self._tokens * self.num_devices / pairs
        flops = pairs * flops_per_pair(self.config.model.architecture(), mean_length, self.config.patches_seen)
        wait_fraction = self._wait_s / self._elapsed_s
        record: Report = {
            **step_record,
            "samples_per_s": pairs / self._elapsed_s,
            "data_wait_fraction": wait_fraction,
            "slowest_s": None,
            "slowest_host": None,
            "flops_per_s": flops / self._elapsed_s / self.num_devices,
            "unreadable_fraction": self._unreadable * self.num_devices / pairs,
            "memory_bytes": peak_memory_bytes(self.device),
            "elapsed_s": elapsed_s,
        }
        if self.num_devices > 1:
            slowest_s, slowest_host = max(zip(self._busy_s, self.hosts, strict=True))
            record["slowest_s"] = slowest_s / self._steps
            record["slowest_host"] = slowest_host
        self._reset_speed()
        loss = step_record["loss"]
        loss_text = "not finite" if loss is None else f"{loss:.3f}"
        speed = f"{record['samples_per_s']:,.0f} samples/s"
        parts = [f"loss {loss_text}", speed, f"{wait_fraction:.0%} of the time waiting for data"]
        self._summary = f"step {step_record['step']}: {', '.join(parts)}"
        self._bar.update(self._task, completed=step_record["step"], summary=self._fit_bar(parts))
        self._append("log.jsonl", record, {name: record[name] for name in CURVES if record[name] is not None})

    def _fit_bar(self, parts: Sequence[str]) -> str:
        """Return as much of the summary as a terminal has room for after step and time left."""
        steps = 2 * len(str(self.schedule.num_steps)) + 1
        room = self._bar.console.width - len("    train") - BAR_WIDTH - steps - len("0:00:00 left") - 5
        lengths = (len(", ".join(parts[:number])) for number in range(1, len(parts) + 1))
        return ", ".join(parts[: sum(length <= room for length in lengths)])

    def write_seen(self, step: int, samples_seen: int, seen: Counter[str], bad: Counter[str]) -> None:
        """Write the pairs seen by language and the images replaced by reason, of all ranks, at a checkpoint."""
        counts = {"seen": dict(sorted(seen.items())), "bad": dict(sorted(bad.items()))}
        record = {"step": step, "samples_seen": samples_seen, **counts}
        self._append("seen.jsonl", record, {f"seen/{lang}": count for lang, count in seen.items()})

    def write_validation(self, step: int, samples_seen: int, loss: float) -> None:
        """Write and print the loss on held-out pairs."""
        record = {"step": step, "samples_seen": samples_seen, "loss": loss}
        self._append("validation.jsonl", record, {"validation_loss": loss})
        if not self.is_silent:
            say("train", f"step {step}: loss on held-out pairs {loss:.4f}")

    def say_saved(self, step: int, elapsed_s: float) -> None:
        """Print one line at a checkpoint, for logs that show no progress bar."""
        left_s = elapsed_s / step * (self.schedule.num_steps - step)
        if not self.is_silent:
            parts = [f"step {step} of {self.schedule.num_steps}", self._summary, f"{left_s / 60:.1f} min left"]
            say("train", "; ".join(part for part in parts if part))

    def _append(self, log: str, record: Record, curves: Mapping[str, float]) -> None:
        """Write a record of a step, and draw curves at it."""
        if not self.is_silent:
            self._lines[log].append(record)
            self.draw(curves, record["step"])

    def draw(self, values: Mapping[str, float], step: int) -> None:
        """Draw values of a step.  Only rank 0 may call this."""
        try:
            if self._board is not None:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
        except OSError as error:  # it writes in a thread, which has ended
            say("train", f"WARNING: TensorBoard gets nothing more from this call ({error})")
            self._board = None
        if self._wandb is not None:
            self._wandb.log(values, step=step)


class Lines:
    """A log of JSON lines.  A full disk ends no training: what cannot be written is written with the next record."""

    def __init__(self, path: Path, step: int) -> None:
        """Open a log to append to it, after removing the records after `step`."""
        write_json_lines(path, (record for record in read_log(path) if record["step"] <= step))
        self._path = path
        self.file = open(path, "ab", buffering=0)  # noqa: SIM115 - until `close`
        self._waiting = b""
        self._has_failed = False

    def append(self, record: Record) -> None:
        """Write a record, after what has not been written before."""
        self._waiting += json.dumps(record, ensure_ascii=False).encode() + b"\n"
        try:
            while self._waiting:  # a disk that fills up takes a part of a line
                self._waiting = self._waiting[self.file.write(self._waiting) :]
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                say("train", f"WARNING: {self._path}: {error}; it is tried again with the next record")
            self._has_failed = True

    def close(self) -> None:
        self.file.close()


def read_log(path: Path) -> list[Report]:
    """Read the records of log.jsonl or seen.jsonl, without a last line that a kill has cut short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
