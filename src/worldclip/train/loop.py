"""The training loop: from a checkpoint to the last step, with the same weights however often it is interrupted.

Everything a step does is a function of its number and of the weights before it: the batch comes from the plan, the
learning rate from the step, and no random generator is used.  All ranks run the loop; rank 0 writes files and messages.
"""

from __future__ import annotations

import gc
import math
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from worldclip.contracts import layout
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.job import Report, Run
from worldclip.curate import online_work
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.model.tokenizer import Tokenizer
from worldclip.train import budget
from worldclip.train.checkpoint import consolidate
from worldclip.train.checkpoint_writer import CheckpointWriter, copy_to_cpu, folder_writer
from worldclip.train.config import TrainConfig
from worldclip.train.device import keep_freed_memory, no_garbage_collection
from worldclip.train.distill import encode_by_teacher, load_teacher
from worldclip.train.distributed import World, barrier, gather_records, pick_rank_device
from worldclip.train.gpu_inputs import copy_ahead
from worldclip.train.held_out import held_out_loss, open_held_out, split_shards
from worldclip.train.loader import UNREADABLE, Batch, Loader
from worldclip.train.log import Log, read_log
from worldclip.train.progress import RankCounts, read_progress
from worldclip.train.schedule import Schedule, crosses, learning_rate
from worldclip.train.scores import MEAN, config_of_scores, score_checkpoint
from worldclip.train.signals import EXIT_CODES, Requests, catch_signals
from worldclip.train.step import LaunchedStep, StepResult, assign_buckets, launch_step
from worldclip.train.train_state import create_train_state

# A skipped step changes no weight.  If ten batches in a row fail, the weights are at fault and not the data.
MAX_SKIPPED_IN_A_ROW = 10
MAX_UNREADABLE_SHARE = 0.01  # share of the samples between two checkpoints; more is a fault of the storage
FEW_UNREADABLE = 20  # unreadable samples without an error: two checkpoints may be only one step apart
MAX_S_WITHOUT_CHECKPOINT = 600.0
COLLECT_EVERY_STEPS = 50
YOUNG = 1  # generations 0 and 1 of Python's garbage collector, in which nearly all garbage is


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The facts that rank 0 has found, from which all ranks start."""

    schedule: Schedule
    checkpoint: Path | None
    """None: fresh weights."""
    num_streams: int
    """Streams that the images are read in; 0: windows."""
    shards: Sequence[Shard]
    """Shards of the matched pool."""
    images: Sequence[Shard] | None
    """The joined files of train.pool; None: the matched pool holds the images."""
    lacks_scores: bool
    """Whether the checkpoint is due for an evaluation that did not end, or was of other datasets."""


@dataclass(frozen=True, slots=True)
class PendingStep:
    """A step that was launched and not read yet, with the facts for its log record."""

    launched: LaunchedStep
    lr: float
    wait_s: float
    """Time spent waiting for its batch."""
    num_tokens: int
    num_unreadable: int
    """Images of this rank's batch that could not be read, and were replaced."""


class Trainer:
    """One rank of a training run."""

    def __init__(self, run: Run, world: World, start: Start, tokenizer: Tokenizer) -> None:
        """Create loader and model, fresh or from a checkpoint.  Rank 0 prints what the run needs and trains."""
        config = run.section(TrainConfig)
        self.config = config = replace(config, precision=start.schedule.precision or config.precision)
        self.evaluate_config = run.section(EvaluateConfig)
        self.languages = run.section(LanguagesConfig).table
        self.run_dir = run.dir
        self.train_dir = layout.train_dir(run.dir)
        self.world = world
        self.schedule = start.schedule
        self.tokenizer = tokenizer
        self.device = pick_rank_device(config.device, world)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.loader = self.open_loader(run, start)
        if world.is_first:  # before training allocates memory
            for line in budget.to_lines(config, tokenizer.vocab_size, self.schedule, world.size):
                say("train", line)
        self.held_out = open_held_out(
            run,
            config,
            tokenizer,
            world,
            shards=start.shards,
            images=start.images,
            batch_size=self.schedule.global_batch_size,
        )
        self.state = create_train_state(config, tokenizer, world, self.device, start.checkpoint)
        self.progress = read_progress(start.checkpoint, world)
        self.lacks_scores = start.lacks_scores
        if world.is_first:
            say("train", self._describe())
            if self.schedule.global_batch_size > self.loader.epoch_length:
                say(
                    "train",
                    f"WARNING: a batch of {self.schedule.global_batch_size:,} is larger than an epoch, and holds pairs "
                    "twice, each as a wrong answer to the other; lower train.global_batch_size",
                )
        self.writer = CheckpointWriter(self.train_dir, world, config.keep_last, config.keep_every_samples)
        hosts = gather_records(socket.gethostname(), world)
        self.log = Log(self.train_dir, config, self.schedule, self.progress.step, self.device, world, hosts)
        self.counts = RankCounts()
        self.pending: deque[PendingStep] = deque()
        self.samples_saved = self.progress.step * self.schedule.global_batch_size
        self.saved_at = 0.0  # time.monotonic of the last checkpoint
        self.started_at = 0.0  # time.perf_counter when the step before was done
        self.idle_since = 0.0  # ... when this rank had also saved and evaluated, as far as they were due

    def open_loader(self, run: Run, start: Start) -> Loader:
        """Return the loader of the pairs to train on; benchmarks/gpu_check.py has another one."""
        shards, _ = split_shards(start.shards, self.config.validation_shards)
        work = None
        if self.config.curation == "online":
            work = online_work(run)
        return Loader(
            run.dir,
            shards,
            self.tokenizer,
            self.config,
            global_batch_size=start.schedule.global_batch_size,
            world=self.world,
            num_streams=start.num_streams,
            work=work,
            images=start.images,
            epochs_dir=self.train_dir / "epochs",
            pin_memory=self.device.type == "cuda",
        )

    def _describe(self) -> str:
        loader = self.loader
        missing = f", {loader.num_without_image:,} kept pairs without an image" if loader.num_without_image else ""
        processes = f"{self.world.size} processes, " if self.world.size > 1 else ""
        num_parameters = self.state.model.clip.num_parameters()
        return (
            f"{num_parameters / 1e6:.1f}M parameters, {self.tokenizer.vocab_size:,} tokens, "
            f"{self.schedule.num_steps:,} steps on {processes}{self.device.type}; "
            f"{loader.epoch_length:,} pairs per epoch{missing}"
        )

    def run(self) -> None:
        """Train to the last step, with checkpoints in RUN/train.

        Raises SystemExit after one of SIGNALS, once a checkpoint is written; UserError if the loss diverges.
        """
        first_step = self.progress.step
        if first_step == self.schedule.num_steps and not self.lacks_scores:
            return
        teacher = self.config.distill.teacher
        self.teacher = None if teacher is None else load_teacher(teacher, self.device)
        self.saved_at = time.monotonic()
        with closing(self.writer), catch_signals() as exit_code_of_signal, self.log, no_garbage_collection():
            if self.lacks_scores:  # a kill came before the end of the evaluation, or its datasets changed
                self._evaluate()
            self.started_at = self.idle_since = time.perf_counter()
            batches = self.loader.batches(first_step, self.schedule.num_steps)
            for batch in copy_ahead(batches, self.device, self.config.accum_steps, self.state.model.text_chunks):
                if self.progress.step == first_step:
                    assign_buckets(self.state, batch)
                self._take_step(batch, exit_code_of_signal)
                self.idle_since = time.perf_counter()
            self.writer.wait()
            exit_codes = gather_records(exit_code_of_signal(), self.world)
            if any(exit_codes):  # of a signal in the last step, or in the last evaluation
                self._exit(max(exit_codes))

    def _take_step(self, batch: Batch, exit_code_of_signal: Callable[[], int]) -> None:
        """Launch a step and read the steps before it; save, evaluate or exit where that is due.

        Raises SystemExit after a signal, UserError if the loss diverges.
        """
        config = self.config
        step = self.progress.step + len(self.pending)
        wait_s = time.perf_counter() - self.started_at
        lr = learning_rate(step, self.schedule.num_steps, self.schedule.warmup_steps, config.lr)
        teacher_features = None
        if self.teacher is not None:
            teacher_features = encode_by_teacher(self.teacher, batch, self.device, config.precision)
        votes = self._requests(exit_code_of_signal()).votes()
        launched = launch_step(self.state, batch, lr, teacher_features, votes, self.idle_since)
        self.counts.add(batch)
        self.pending.append(PendingStep(launched, lr, wait_s, len(batch.tokens.ids), batch.bad.counts[UNREADABLE]))
        num_launched = step + 1
        is_last = num_launched == self.schedule.num_steps
        is_evaluated = crosses(num_launched, self.schedule, config.evaluate_every_samples)
        is_by_samples = is_last or crosses(num_launched, self.schedule, config.checkpoint_every_samples)
        is_due = is_by_samples or is_evaluated
        requests = self._read_steps(0 if is_due else steps_ahead(self.device))
        if is_by_samples and self.held_out is not None:
            loss = held_out_loss(self.state, self.held_out)
            self.log.write_validation(num_launched, num_launched * self.schedule.global_batch_size, loss)
            self.started_at = time.perf_counter()
        if self.world.size == 1:  # no other rank must get the same answer: the newest one counts
            requests = self._requests(exit_code_of_signal())
        is_saved = is_due or requests.is_overdue or requests.exit_code > 0
        if not is_saved:
            if num_launched % COLLECT_EVERY_STEPS == 0:
                gc.collect(YOUNG)
            return
        gc.collect()
        self._read_steps(0)
        self._save()
        if is_evaluated:
            self._evaluate()
            self.started_at = time.perf_counter()
        if requests.exit_code and not is_last:
            self._exit(requests.exit_code)

    def _requests(self, exit_code: int) -> Requests:
        """Return what this rank asks of all ranks: rank 0's clock counts, and any rank's signal."""
        is_overdue = time.monotonic() - self.saved_at >= MAX_S_WITHOUT_CHECKPOINT
        return Requests(is_overdue and self.world.is_first, exit_code)

    def _read_steps(self, num_left: int) -> Requests:
        """Read the numbers of all steps but the last num_left, and return what any rank asks by the last one read.

        Raises UserError if the loss diverges.
        """
        requests = Requests()
        while len(self.pending) > num_left:
            step = self.pending.popleft()
            result = step.launched.read()
            done_at = time.perf_counter()
            step_s = done_at - self.started_at
            self.started_at = done_at
            self.progress.add_step(result, step_s)
            wait_s = min(step.wait_s, step_s)
            self.log.add_step(step_s, wait_s, step.num_tokens, step.num_unreadable, result.busy_s)
            self._log_step(result, step.lr)
            skipped = self.progress.skipped_in_a_row
            if skipped >= MAX_SKIPPED_IN_A_ROW:
                self.writer.wait()
                raise UserError(
                    f"train.lr = {self.config.lr}: the loss or its gradient was not finite for {skipped} steps in a "
                    f"row, up to step {self.progress.step}; lower it, move {self.train_dir} away and train anew"
                )
            requests = Requests.of_votes(result.votes)
        return requests

    def _log_step(self, result: StepResult, lr: float) -> None:
        progress = self.progress
        self.log.advance(progress.step)
        if not self.log.is_due(progress.step):
            return
        samples = progress.step * self.schedule.global_batch_size
        mean_loss = None  # of the steps since the record before; JSON has no infinity or NaN
        if progress.loss_count:
            mean_loss = progress.loss_sum / progress.loss_count
        grad_norm = None
        if math.isfinite(result.grad_norm):
            grad_norm = result.grad_norm
        record: Report = {
            "step": progress.step,
            "samples_seen": samples,
            "epoch": round(self.loader.epochs_of(samples), 4),
            "loss": mean_loss,
            "lr": lr,
            "logit_scale": result.logit_scale,
            "grad_norm": grad_norm,
        }
        self.log.write_step(record, progress.elapsed_s)
        progress.loss_sum = 0.0
        progress.loss_count = 0

    def _save(self) -> None:
        """Start to write a checkpoint.

        Raises UserError if more than MAX_UNREADABLE_SHARE of the samples since the checkpoint before were lost.
        """
        progress = self.progress
        self.saved_at = time.monotonic()
        num_unreadable_before = progress.bad[UNREADABLE]
        self.counts.move_to(progress, self.world)
        num_unreadable = progress.bad[UNREADABLE] - num_unreadable_before
        samples = progress.step * self.schedule.global_batch_size
        record = progress.to_record() | {"samples_seen": samples}
        write_model = folder_writer(self.state, self.tokenizer)
        self.writer.start(record.pop("step"), copy_to_cpu(self.state), record, write_model)
        self.log.write_seen(progress.step, samples, progress.seen, progress.bad)
        self.log.say_saved(progress.step, progress.elapsed_s)
        num_samples = samples - self.samples_saved
        self.samples_saved = samples
        if num_unreadable > max(FEW_UNREADABLE, MAX_UNREADABLE_SHARE * num_samples):
            self.writer.wait()
            barrier(self.world)
            example = ": ".join(next(iter(self.progress.bad_keys.items())))
            raise UserError(
                f"{num_unreadable:,} images could not be read for {num_samples:,} samples, more than "
                f"{MAX_UNREADABLE_SHARE:.0%}, for example {example}; repair the pool's storage, then run the same "
                f"command again: step {self.progress.step} is saved"
            )

    def _evaluate(self) -> None:
        """Evaluate the checkpoint that was just written, on rank 0; the others wait."""
        self.writer.wait()
        barrier(self.world)
        if self.world.is_first:
            step = self.progress.step
            checkpoint = layout.step_folder(self.train_dir, step)
            consolidate(checkpoint)
            config = config_of_scores(self.config, self.evaluate_config)
            scores = score_checkpoint(checkpoint, self.run_dir, config, self.languages, device=self.config.device)
            self.log.draw({f"evaluate/{name}": score for name, score in scores.items()}, step)
            say("train", f"step {step}: mean score over datasets {scores[MEAN]:.4f}")
        barrier(self.world)

    def _exit(self, exit_code: int) -> None:
        """Exit after a signal, as soon as the checkpoint is complete on disk."""
        self.writer.wait()
        barrier(self.world)
        if self.world.is_first:
            saved = f"{EXIT_CODES[exit_code]}: step {self.progress.step} is saved"
            say("train", f"{saved}; run the same command again to resume")
        raise SystemExit(exit_code)

    def report(self) -> Report:
        """Return the content of RUN/train/report.json."""
        progress = self.progress
        loader = self.loader
        samples_seen = progress.step * self.schedule.global_batch_size
        return {
            "samples_seen": samples_seen,
            "steps": progress.step,
            "schedule": asdict(self.schedule),
            "epochs": loader.epochs_of(samples_seen),
            "pairs": loader.epoch_length,
            "no_image": loader.num_without_image,
            "skipped_steps": progress.step - progress.updates,
            "seen": dict(sorted(progress.seen.items())),
            "bad": dict(sorted(progress.bad.items())),
            "bad_samples": progress.bad_keys,
            "vocab_size": self.tokenizer.vocab_size,
            "threads": torch.get_num_threads(),
            "elapsed_s": progress.elapsed_s,
            "samples_per_s": samples_seen / progress.elapsed_s if progress.elapsed_s else None,
            "checkpoint": layout.checkpoints(self.train_dir)[-1].name,
            "curve": read_log(layout.log_file(self.train_dir)),
        }


def steps_ahead(device: torch.device) -> int:
    """Return how many steps are launched ahead of the one that is read: reading waits, and a GPU would idle."""
    return 1 if device.type == "cuda" else 0
