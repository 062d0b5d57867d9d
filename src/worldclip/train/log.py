"""What training says: a progress bar, log.jsonl, seen.jsonl, TensorBoard, and Weights & Biases where asked for.

Files are cut back to the step that a resumed run goes on from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldclip.core.artifacts import write_text
from worldclip.core.console import say
from worldclip.core.errors import require
from worldclip.train.config import TrainConfig
from worldclip.train.cost import flops_per_pair, peak_flops, peak_memory_bytes
from worldclip.train.scale import Schedule

LOG_EVERY_STEPS = 10
CURVES = (  # keys of a record that are drawn
    *("loss", "lr", "logit_scale", "grad_norm", "samples_per_s", "data_wait_fraction"),
    *("flop_utilisation", "memory_bytes"),
)


class Log:
    """The first rank's; others have one that is silent."""

    def __init__(
        self,
        train_dir: Path,
        config: TrainConfig,
        schedule: Schedule,
        first_step: int,
        device: torch.device,
        *,
        num_devices: int,
        is_silent: bool,
    ) -> None:
        self.train_dir, self.config, self.schedule, self.first_step = train_dir, config, schedule, first_step
        self.device, self.num_devices, self.is_silent = device, num_devices, is_silent
        self._since_s = self._wait_s = 0.0
        self._steps = self._tokens = 0
        self._news = ""

    def __enter__(self) -> Log:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("    train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeRemainingColumn(),
            console=console,
            disable=self.is_silent or not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=self.schedule.num_steps, completed=self.first_step, news="")
        if self.is_silent:
            return self
        from torch.utils.tensorboard import SummaryWriter

        self._file = _cut_back(self.train_dir / "log.jsonl", self.first_step)
        self._seen = _cut_back(self.train_dir / "seen.jsonl", self.first_step)
        self._board = SummaryWriter(str(self.train_dir / "tensorboard"), purge_step=self.first_step + 1)
        self._wandb = None
        if self.config.wandb is not None:
            wandb = require("wandb", extra="wandb")
            folder = str(self.train_dir)
            self._wandb = wandb.init(project=self.config.wandb, dir=folder, id=_run_id(self.train_dir), resume="allow")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self.is_silent:
            return
        self._board.close()
        self._file.close()
        self._seen.close()
        if self._wandb is not None:
            self._wandb.finish()

    def add_step(self, step_s: float, wait_s: float, num_tokens: int) -> None:
        """Take in a step's time, the part of it spent waiting for data, and the tokens of this rank's texts."""
        self._since_s += step_s
        self._wait_s += wait_s
        self._steps += 1
        self._tokens += num_tokens

    def is_due(self, step: int) -> bool:
        return step % LOG_EVERY_STEPS == 0 or step == self.schedule.num_steps

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def write_step(self, record: dict[str, Any]) -> None:
        """A record of step, samples_seen, epoch, loss, lr, logit_scale, grad_norm, elapsed_s; speeds are added."""
        pairs = self._steps * self.schedule.global_batch_size
        length = self._tokens * self.num_devices / pairs
        flops = pairs * flops_per_pair(self.config.model.architecture(), length)
        peak = peak_flops(self.device, self.config.precision)
        elapsed_s = record.pop("elapsed_s")
        record |= {
            "samples_per_s": pairs / self._since_s,
            "data_wait_fraction": self._wait_s / self._since_s,
            "flop_utilisation": flops / self._since_s / (peak * self.num_devices) if peak else None,
            "memory_bytes": peak_memory_bytes(self.device),
            "elapsed_s": elapsed_s,
        }
        self._since_s, self._wait_s, self._steps, self._tokens = 0.0, 0.0, 0, 0
        loss = "not finite" if record["loss"] is None else f"{record['loss']:.3f}"
        wait = f", {record['data_wait_fraction']:.0%} of the time waiting for data"
        self._news = f"loss {loss}, {record['samples_per_s']:,.0f} samples/s{wait}"
        self._bar.update(self._task, completed=record["step"], news=self._news)
        if self.is_silent:
            return
        _append(self._file, record)
        self._draw({name: record[name] for name in CURVES if record[name] is not None}, record["step"])

    def write_seen(self, step: int, samples_seen: int, seen: Counter[str]) -> None:
        """Pairs seen by language, at a checkpoint."""
        if self.is_silent:
            return
        _append(self._seen, {"step": step, "samples_seen": samples_seen, "seen": dict(sorted(seen.items()))})
        self._draw({f"seen/{lang}": count for lang, count in seen.items()}, step)

    def write_scores(self, step: int, scores: dict[str, float]) -> None:
        """What an evaluation at a checkpoint found."""
        if not self.is_silent:
            self._draw({f"evaluate/{name}": value for name, value in scores.items()}, step)

    def say_saved(self, step: int, elapsed_s: float) -> None:
        """One line at a checkpoint, for those who read a log rather than a bar."""
        left_s = elapsed_s / step * (self.schedule.num_steps - step)
        if not self.is_silent:
            say("train", f"step {step} of {self.schedule.num_steps}; {self._news}; {left_s / 60:.1f} min left")

    def _draw(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)


def _cut_back(path: Path, step: int) -> TextIO:
    """The file opened to append to, without the records behind `step`."""
    kept = [record for record in read_log(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
    return open(path, "a", encoding="utf-8")


def _append(file: TextIO, record: dict[str, Any]) -> None:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    file.flush()


def _run_id(train_dir: Path) -> str:
    """The same for every resumed part of a run: its records go to one place."""
    path = train_dir / "wandb_id"
    if not path.exists():
        from secrets import token_hex

        write_text(path, token_hex(8))
    return path.read_text(encoding="utf-8")


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
