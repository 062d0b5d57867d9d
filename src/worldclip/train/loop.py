"""The training loop: from a checkpoint to the last step, with the same weights however often it is interrupted.

Everything a step does is a function of its number and of the weights before it: the batch comes from the plan, the
learning rate from the step, and no random generator is used.  All ranks run the loop; rank 0 writes files and messages.
"""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

import torch

from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.core.job import Report, Run
from worldclip.curate import online_work
from worldclip.evaluate.config import EvaluateConfig
from worldclip.language.config import LanguagesConfig
from worldclip.model.clip import count_parameters
from worldclip.model.tokenizer import Tokenizer
from worldclip.train import budget
from worldclip.train.checkpoint import CheckpointWriter, consolidate, read_state
from worldclip.train.config import TrainConfig
from worldclip.train.device import Moment, device_memory_bytes, keep_freed_memory, peak_flops
from worldclip.train.distill import Teacher, create_students, resize
from worldclip.train.distributed import World, barrier, gather_records, pick_rank_device
from worldclip.train.loader import UNREADABLE, BadImages, Batch, Loader
from worldclip.train.log import Log, read_log
from worldclip.train.prefetch import copy_ahead
from worldclip.train.replicas import require_equal_replicas
from worldclip.train.schedule import Schedule, learning_rate
from worldclip.train.scores import MEAN, has_scores, score_checkpoint
from worldclip.train.step import EXIT_CODES, LaunchedStep, Requests, StepResult, launch_step
from worldclip.train.train_state import copy_to_cpu, create_train_state, write_folder

# A skipped step changes no weight.  If ten batches in a row fail, the weights are at fault and not the data.
MAX_SKIPPED_IN_A_ROW = 10
SIGNALS = dict(zip((signal.SIGTERM, signal.SIGUSR1), EXIT_CODES, strict=True))  # save and exit
TERMINATED = SIGNALS[signal.SIGTERM]


@dataclass(kw_only=True)
class Progress:
    """What a checkpoint stores besides tensors, summed over ranks.  The fields are keys of trainer/state.json."""

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
    """What this rank has counted since the last checkpoint."""

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
        self.seen, self.bad = Counter(), BadImages()


@dataclass(frozen=True, slots=True)
class Underway:
    """A step that was launched, and what its log record needs."""

    step: LaunchedStep
    lr: float
    wait_s: float
    """Time spent waiting for its batch."""
    num_tokens: int
    began: Moment
    """When this rank was done with the step before."""


def _epochs_dir(run: Run, shards: Sequence[Shard], images: Sequence[Shard] | None) -> Path:
    """Return the folder of the epochs' numbers of pairs, whose name is the digest of all that they depend on."""
    decided_by = {
        "pool": artifacts.require_manifest(run.dir, "pool")["digest"],
        "curate": artifacts.require_manifest(run.dir, "curate")["digest"],
        "curation": run.section(TrainConfig).curation,
        "shards": [shard.name for shard in shards],
        "images": [image.fingerprint for image in images or ()],
    }
    return layout.train_dir(run.dir) / "epochs" / artifacts.digest(decided_by)


class Trainer:
    """One rank of a training run."""

    def __init__(
        self,
        run: Run,
        world: World,
        schedule: Schedule,
        tokenizer: Tokenizer,
        checkpoint: Path | None,
        num_streams: int,
        shards: Sequence[Shard],
        images: Sequence[Shard] | None,
    ) -> None:
        """Create loader and model, fresh or from `checkpoint`; rank 0 prints what the run needs and trains."""
        self.config = config = run.section(TrainConfig)
        self.run_dir, self.evaluate_config = run.dir, run.section(EvaluateConfig)
        self.languages = run.section(LanguagesConfig).table
        self.world, self.schedule, self.tokenizer = world, schedule, tokenizer
        self.device = pick_rank_device(config.device, world)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.loader = Loader(
            run.dir,
            shards,
            tokenizer,
            config,
            global_batch_size=schedule.global_batch_size,
            world=world,
            num_streams=num_streams,
            work=online_work(run) if config.curation == "online" else None,
            images=images,
            epochs_dir=_epochs_dir(run, shards, images),
            pin_memory=self.device.type == "cuda",
        )
        if world.is_first:  # before training allocates memory
            flops_per_s = config.hardware.flops_per_s or peak_flops(self.device, config.precision)
            memory_bytes = device_memory_bytes(self.device)
            for line in budget.to_lines(
                config, tokenizer.vocab_size, schedule, world.size, memory_bytes=memory_bytes, flops_per_s=flops_per_s
            ):
                say("train", line)
        self.state = create_train_state(config, tokenizer, world, self.device, checkpoint)
        self.progress = _read_progress(checkpoint, world, self.device)
        if world.is_first:
            say("train", self._describe())
        self.writer = CheckpointWriter(layout.train_dir(run.dir), world, config.keep_last, config.keep_every_samples)
        self.counts = RankCounts()
        self.samples_saved = self.progress.step * schedule.global_batch_size
        self.saved_at = self.started_at = 0.0  # of the last checkpoint, by time.monotonic; of the step, by perf_counter

    def _describe(self) -> str:
        loader = self.loader
        missing = f", {loader.num_without_image:,} kept pairs without an image" if loader.num_without_image else ""
        processes = f"{self.world.size} processes, " if self.world.size > 1 else ""
        num_parameters = count_parameters(self.state.model.clip)
        num_trained = sum(p.numel() for p in self.state.model.clip.parameters() if p.requires_grad)
        fixed = f" ({num_trained / 1e6:.2f}M of them trained)" if num_trained < num_parameters else ""
        return (
            f"{num_parameters / 1e6:.1f}M parameters{fixed}, {self.tokenizer.vocab_size:,} tokens, "
            f"{self.schedule.num_steps:,} steps on {processes}{self.device.type}; "
            f"{loader.epoch_length:,} pairs per epoch{missing}"
        )

    def run(self) -> None:
        """Train to the last step, with checkpoints in RUN/train.

        Raises SystemExit after SIGTERM or SIGUSR1, once a checkpoint is written; UserError if the loss diverges.
        """
        progress, schedule = self.progress, self.schedule
        if progress.step == schedule.num_steps and not self._lacks_scores():
            return
        train_dir = layout.train_dir(self.run_dir)
        self.teacher = Teacher.load(self.config, self.device)
        self.students = create_students(self.config, train_dir, self.world, self.device, progress.step)
        self.saved_at = time.monotonic()
        log = Log(train_dir, self.config, schedule, progress.step, self.device, self.world)
        with closing(self.writer), _catch_signals() as exit_code_of_signal, log:
            if self._lacks_scores():  # a kill came between the checkpoint and the end of its evaluation
                self._evaluate(log)
            self.started_at = time.perf_counter()
            self.idle_since, self.busy_s = Moment.now(self.device), 0.0
            underway: deque[Underway] = deque()
            num_ahead = steps_ahead(self.device)
            for batch in self._batches(progress.step):
                underway.append(self._launch(batch, progress.step + len(underway), exit_code_of_signal()))
                launched = progress.step + len(underway)
                is_evaluated = crosses(launched, schedule, self.config.evaluate_every_samples)
                is_last = launched == schedule.num_steps
                is_due = crosses(launched, schedule, self.config.checkpoint_every_samples) or is_last or is_evaluated
                requests = self._finish(underway, 0 if is_due else num_ahead, log)
                if self.world.size == 1:  # nobody else is to agree
                    requests = self._requests(exit_code_of_signal())
                if not (is_due or requests.is_overdue or requests.exit_code):
                    continue
                self._finish(underway, 0, log)
                self._save(log)
                if is_evaluated:
                    self._evaluate(log)
                    self.started_at = time.perf_counter()
                if requests.exit_code and not is_last:
                    self._exit(requests.exit_code)
                self.idle_since = Moment.now(self.device)  # ranks wait for each other in a save
            self.writer.wait()
            barrier(self.world)

    def _batches(self, first_step: int) -> Iterator[Batch]:
        """Return the batches from a step on, on a GPU as the model reads them."""
        batches = self.loader.batches(first_step, self.schedule.num_steps)
        if self.teacher is not None:  # it reads images in its own size
            return batches
        return copy_ahead(batches, self.device, self.config.accum_steps, self.state.model.text_chunks)

    def _requests(self, exit_code: int) -> Requests:
        """Return what this rank asks of all ranks: rank 0's clock counts, and any rank's signal."""
        is_overdue = time.monotonic() - self.saved_at >= 60 * self.config.checkpoint_every_minutes
        return Requests(is_overdue and self.world.is_first, exit_code)

    def _launch(self, batch: Batch, step: int, exit_code: int) -> Underway:
        """Start a step."""
        wait_s = time.perf_counter() - self.started_at
        lr = learning_rate(step, self.schedule.num_steps, self.schedule.warmup_steps, self.config.lr)
        launched = self._step(batch, lr, self._requests(exit_code))
        self.counts.add(batch)
        began, self.idle_since = self.idle_since, Moment.now(self.device)
        return Underway(launched, lr, wait_s, len(batch.tokens.ids), began)

    def _finish(self, underway: deque[Underway], num_left: int, log: Log) -> Requests:
        """Read the numbers of all steps but the last num_left, and return what any rank asks by the last one read.

        Raises UserError if the loss diverges.
        """
        requests = Requests()
        while len(underway) > num_left:
            step = underway.popleft()
            result = step.step.read()
            done_at = time.perf_counter()
            self.progress.add_step(result, done_at - self.started_at)
            log.add_step(done_at - self.started_at, min(step.wait_s, done_at - self.started_at), step.num_tokens)
            self.started_at = done_at
            self.busy_s = step.step.arrived.seconds_since(step.began)
            log.add_busy_times(result.busy_s)
            self._log_step(log, result, step.lr)
            self._stop_if_diverged()
            requests = result.requests
        return requests

    def _step(self, batch: Batch, lr: float, requests: Requests) -> LaunchedStep:
        """Start the model's step; with a teacher also take the students', for one forward pass of the teacher."""
        if self.teacher is None:
            return launch_step(self.state, batch, lr, requests=requests, busy_s=self.busy_s)
        teacher_features = self.teacher.encode(batch)
        size = self.config.model.architecture().image_size  # crops are as large as the largest student's
        own_batch = replace(batch, images=resize(batch.images, size))
        launched = launch_step(self.state, own_batch, lr, teacher_features, requests, self.busy_s)
        for student in self.students:
            student.step(batch, lr, teacher_features)
        return launched

    def _log_step(self, log: Log, result: StepResult, lr: float) -> None:
        progress = self.progress
        if not log.is_due(progress.step):
            log.advance(progress.step)
            return
        samples = progress.step * self.schedule.global_batch_size
        record: Report = {
            "step": progress.step,
            "samples_seen": samples,
            "epoch": round(self.loader.epochs_of(samples), 4),
            # the mean since the record before; None: not finite
            "loss": progress.loss_sum / progress.loss_count if progress.loss_count else None,
            "lr": lr,
            "logit_scale": result.logit_scale,
            "grad_norm": result.grad_norm if math.isfinite(result.grad_norm) else None,  # JSON has no infinity or NaN
        }
        log.write_step(record, progress.elapsed_s)
        progress.loss_sum, progress.loss_count = 0.0, 0

    def _stop_if_diverged(self) -> None:
        skipped = self.progress.skipped_in_a_row
        if skipped >= MAX_SKIPPED_IN_A_ROW:
            self.writer.wait()
            raise UserError(
                f"train.lr = {self.config.lr}: the loss or its gradient was not finite for {skipped} steps in a row, "
                f"up to step {self.progress.step}; lower it and restart training with --from train"
            )

    def _save(self, log: Log) -> None:
        """Start to write a checkpoint.  Those of the students are complete before, so that all resume at one step."""
        progress = self.progress
        self.saved_at = time.monotonic()
        for state in (self.state, *(student.state for student in self.students)):
            require_equal_replicas(state, progress.step)
        num_unreadable = progress.bad[UNREADABLE]
        self.counts.move_to(progress, self.world)
        num_unreadable = progress.bad[UNREADABLE] - num_unreadable
        for student in self.students:
            student.save(progress.step)
        samples = progress.step * self.schedule.global_batch_size
        record = progress.to_record()
        record |= {"samples_seen": samples, "threads": torch.get_num_threads(), "world_size": self.world.size}
        write_model = functools.partial(write_folder, state=self.state, tokenizer=self.tokenizer)
        self.writer.start(record.pop("step"), copy_to_cpu(self.state), record, write_model)
        log.write_seen(progress.step, samples, progress.seen)
        log.say_saved(progress.step, progress.elapsed_s)
        self._stop_if_unreadable(num_unreadable, samples)

    def _stop_if_unreadable(self, num_unreadable: int, samples_seen: int) -> None:
        """Raise UserError if more reads failed than samples were seen since the checkpoint before."""
        num_samples, self.samples_saved = samples_seen - self.samples_saved, samples_seen
        if num_unreadable > num_samples:
            self.writer.wait()
            barrier(self.world)
            example = ": ".join(next(iter(self.progress.bad_keys.items())))
            raise UserError(
                f"{num_unreadable:,} images could not be read for {num_samples:,} samples, for example {example}; mend "
                f"the pool's storage, then run the same command again: step {self.progress.step} is saved"
            )

    def _lacks_scores(self) -> bool:
        """Return whether the checkpoint of this step is due for an evaluation that did not end."""
        step = self.progress.step
        if step == 0 or not crosses(step, self.schedule, self.config.evaluate_every_samples):
            return False
        checkpoint = layout.step_folder(layout.train_dir(self.run_dir), step)
        return not has_scores(checkpoint, checkpoint)

    def _evaluate(self, log: Log) -> None:
        """Evaluate the checkpoint that was just written, on rank 0; the others wait."""
        self.writer.wait()
        barrier(self.world)
        if self.world.is_first:
            step, device = self.progress.step, self.config.device
            checkpoint = layout.step_folder(layout.train_dir(self.run_dir), step)
            consolidate(checkpoint)
            scores = score_checkpoint(
                checkpoint,
                checkpoint,
                self.run_dir,
                self.config,
                self.evaluate_config,
                self.languages,
                device=device,
            )
            log.write_scores(step, scores)
            say("train", f"step {step}: mean score over datasets {scores[MEAN]:.4f}")
        barrier(self.world)

    def _exit(self, exit_code: int) -> None:
        """Exit after a signal, as soon as the checkpoint is complete on disk."""
        self.writer.wait()
        barrier(self.world)
        if self.world.is_first:
            name = "SIGTERM" if exit_code == TERMINATED else "SIGUSR1"
            say("train", f"{name}: step {self.progress.step} is saved; run the same command again to resume")
        raise SystemExit(exit_code)

    def report(self) -> Report:
        """Return the content of RUN/train/report.json."""
        progress, loader, train_dir = self.progress, self.loader, layout.train_dir(self.run_dir)
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
            "checkpoint": layout.checkpoints(train_dir)[-1].name,
            "curve": read_log(layout.log_file(train_dir)),
        }


def _read_progress(checkpoint: Path | None, world: World, device: torch.device) -> Progress:
    """Return the progress at a checkpoint, and print where and how training resumes."""
    if checkpoint is None:
        return Progress()
    record = read_state(checkpoint)
    del record["samples_seen"]
    before = (record.pop("world_size"), record.pop("threads"))
    now = (world.size, torch.get_num_threads())
    if world.is_first:
        say("train", f"resumes from {checkpoint.name}")
        if device.type == "cpu" and now != before:
            say(
                "train",
                f"{now[0]} process(es) of {now[1]} thread(s), before {before[0]} of {before[1]}: the pairs are the "
                "same, but weights agree only up to rounding",
            )
    return Progress(**{**record, "seen": Counter(record["seen"]), "bad": Counter(record["bad"])})


def steps_ahead(device: torch.device) -> int:
    """Return the number of steps that are launched before the numbers of the one before them are read.

    Reading waits for a GPU, which would then idle until Python has launched the next step.
    """
    return 1 if device.type == "cuda" else 0


def crosses(step: int, schedule: Schedule, every: int) -> bool:
    """Return whether this step completes another `every` samples; 0: never."""
    batch = schedule.global_batch_size
    return every > 0 and step * batch // every > (step - 1) * batch // every


@contextmanager
def _catch_signals() -> Iterator[Callable[[], int]]:
    """Note SIGTERM and SIGUSR1 instead of dying of them.  Yields a function: the exit code of the last one, else 0.

    Python delivers signals only to the main thread; in another thread the function always returns 0.
    """
    exit_codes = [0]

    def note(number: int, frame: FrameType | None) -> None:
        exit_codes.append(SIGNALS[signal.Signals(number)])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    previous = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: exit_codes[-1]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
