"""Write checkpoints in the background while training goes on; checkpoint.py shows the folder."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from worldclip.contracts import layout
from worldclip.contracts.layout import step_folder
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.console import say
from worldclip.core.errors import WorkStopped, naming
from worldclip.core.job import Record
from worldclip.core.job_files import FORMAT_VERSION
from worldclip.model.clip import image_processor
from worldclip.model.formats.huggingface_folder import write_sentence_modules
from worldclip.model.tokenizer import Tokenizer
from worldclip.model.weights import write_state
from worldclip.train.checkpoint import (
    MODEL,
    OPTIMIZER,
    SHARDS,
    Digests,
    ShardedTensor,
    ShardRows,
    flush_to_disk,
    names_in_model,
    remove_old,
    size_and_digest,
    write_digests,
)
from worldclip.train.distributed import World, barrier, local_tensor, shard_rows, sharding_ranks
from worldclip.train.lora import FOLDER as ADAPTERS
from worldclip.train.lora import copy_adapters, is_adapter, merged_weights, write_adapters
from worldclip.train.train_state import MOMENTS, TrainState

MAX_FAILED_SAVES = 3  # consecutive failures after which training stops
_FAILED = "failed"  # key of a rank's note: why it could not write its rows
_POLL_S = 0.02  # interval of looking for the notes of the other ranks
WRITE_TIMEOUT_S = 30 * 60  # longest write: a file system that hangs raises no error
CLOSE_TIMEOUT_S = 30  # torchrun's own limit before it kills a process


@dataclass(frozen=True, slots=True)
class LocalTensor:
    """A tensor, or this rank's rows of it.  A tensor without dimensions is one row."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    first_row: int
    """The row of the whole tensor that is the first of `tensor`."""

    @property
    def num_rows(self) -> int:
        return len(self.tensor) if self.shape else 1

    def rows(self, start: int, stop: int) -> LocalTensor:
        """Return rows [start, stop) of these.  Memory is shared."""
        tensor = self.tensor[start:stop] if self.shape else self.tensor
        return dataclasses.replace(self, tensor=tensor, first_row=self.first_row + start)

    def copy(self) -> LocalTensor:
        """Copy the tensor to the CPU."""
        return dataclasses.replace(self, tensor=self.tensor.detach().to("cpu", copy=True).contiguous())


def cut_share(tensors: Mapping[str, LocalTensor], index: int, count: int) -> dict[str, LocalTensor]:
    """Return share `index` of `count`: consecutive rows of all tensors laid end to end, of equal bytes up to a row.

    Consecutive rows, so that most tensors are in one file: a slice of each tensor in each file would make an index of a
    million entries for a model of 800 tensors on 384 ranks.

    Example: tensor a has 4 rows of 8 bytes, which start at the bytes 0, 8, 16, 24; b has 2 rows of 16 bytes, which
    start at 32 and 48.  Three shares of these 64 bytes are the bytes 0 to 20, 21 to 41 and 42 to 63.  A share gets the
    rows that start in it: the first one rows 0, 1, 2 of a, the second row 3 of a and row 0 of b, the third row 1 of b.
    """
    total_bytes = sum(local.tensor.nbytes for local in tensors.values())
    share_start = total_bytes * index // count
    share_stop = total_bytes * (index + 1) // count
    share = {}
    tensor_start = 0
    for name, local in tensors.items():
        row_bytes = max(1, local.tensor.nbytes // max(1, local.num_rows))
        # the number of rows that start before a byte of the tensor: byte / row_bytes, rounded up
        first_row = -(-(share_start - tensor_start) // row_bytes)
        stop_row = -(-(share_stop - tensor_start) // row_bytes)
        first_row = min(max(first_row, 0), local.num_rows)
        stop_row = min(max(stop_row, 0), local.num_rows)
        if first_row < stop_row:
            share[name] = local.rows(first_row, stop_row)
        tensor_start += local.tensor.nbytes
    return share


def copy_to_cpu(state: TrainState) -> dict[str, LocalTensor]:
    """Return copies of this rank's share of weights and moments, which later steps do not change.

    Names: weights.<parameter>, exp_avg.<parameter>, exp_avg_sq.<parameter>.  What several ranks hold is cut among them,
    so that each row is copied once: all under DDP, under HSDP the shards, of which every machine has a copy.

    With LoRA: weights.<parameter> are merged, base.<parameter> what the adapters are added to, adapter.<parameter> the
    adapters.
    """
    world = state.world
    sharding = sharding_ranks(state.config.parallel, world)
    replicated: dict[str, LocalTensor] = {}
    sharded: dict[str, LocalTensor] = {}
    merged = dict(merged_weights(state.model.clip))
    for name, parameter in state.model.checkpoint_parameters().items():
        kinds = {"adapter" if is_adapter(name) else "weights": parameter.detach()}
        if name in merged:
            kinds = {"weights": merged[name], "base": parameter.detach()}
        if parameter in state.optimizer.state:
            kinds |= {moment: state.optimizer.state[parameter][moment] for moment in MOMENTS}
        tensors = replicated
        first_row = 0
        if isinstance(parameter, DTensor):
            tensors = sharded
            first_row, _ = shard_rows(len(parameter), sharding)
        for kind, tensor in kinds.items():
            tensors[f"{kind}.{name}"] = LocalTensor(local_tensor(tensor), tuple(parameter.shape), first_row)
    share = cut_share(replicated, world.rank, world.size)
    share |= cut_share(sharded, world.rank // sharding.size, world.size // sharding.size)
    return {name: local.copy() for name, local in share.items() if local.num_rows}


def folder_writer(state: TrainState, tokenizer: Tokenizer) -> Callable[[Path], None]:
    """Return a function that another thread calls to write all of a checkpoint's folder but weights and moments.

    Those are configuration, tokenizer, preprocessing, and with LoRA the present adapters.
    """
    adapters = copy_adapters(state.model.clip) if state.config.lora_rank is not None else None

    def write(folder: Path) -> None:
        config = copy.deepcopy(state.model.clip.config)
        config.architectures = ["MetaClip2Model"]
        config.dtype = "float32"
        config.save_pretrained(folder)
        tokenizer.save(folder)
        image_processor(state.config.model.architecture().image_size).save_pretrained(folder)
        write_sentence_modules(folder)
        if adapters is not None:
            write_adapters(folder / ADAPTERS, adapters, state.config)

    return write


class CheckpointWriter:
    """Writes checkpoints in a thread while training continues, one at a time.

    A failed write costs that checkpoint; training goes on to the next one, MAX_FAILED_SAVES times in a row at most.  A
    write that hangs ends the run: the thread cannot be ended, and is left behind as a daemon.
    """

    def __init__(self, train_dir: Path, world: World, keep_last: int, keep_every_samples: int = 0) -> None:
        """keep_last, keep_every_samples: see remove_old."""
        self.train_dir = train_dir
        self.world = world
        self.keep_last = keep_last
        self.keep_every_samples = keep_every_samples
        self.num_failed = 0  # consecutive failures
        self._running: futures.Future[None] | None = None
        self._folder = train_dir  # parent of the checkpoint in progress
        self._started_at = 0.0
        self._is_closing = threading.Event()

    def start(
        self,
        step: int,
        tensors: Mapping[str, LocalTensor],
        state: Record,
        write_model: Callable[[Path], object],
    ) -> None:
        """Start to write step_<step>, after the checkpoint before it is complete.  Every rank must call this.

        tensors: as copy_to_cpu names them.  state: further keys of state.json.  write_model: fills a folder
        with configuration, tokenizer and preprocessing.  Raises the error of the checkpoint before only after
        MAX_FAILED_SAVES of them in a row.
        """
        try:
            self.wait()
            self.num_failed = 0
        except WorkStopped:
            raise
        except Exception as error:  # safetensors raises errors of disks as its own
            self.num_failed += 1
            if self.num_failed == MAX_FAILED_SAVES:
                raise
            if self.world.is_first:
                say("train", f"WARNING: a checkpoint was not written ({error}); training goes on to the next one")
        self._folder = step_folder(self.train_dir, step)
        partial = self.train_dir / f".{self._folder.name}.tmp"
        if self.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # the write meets it again, and costs only this checkpoint
                (partial / SHARDS).mkdir(parents=True)
        barrier(self.world)
        self._started_at = time.monotonic()
        self._running = _start_daemon(lambda: self._write(partial, step, tensors, state, write_model))

    def _write(
        self,
        partial: Path,
        step: int,
        tensors: Mapping[str, LocalTensor],
        state: Record,
        write_model: Callable[[Path], object],
    ) -> None:
        """Write this rank's part; rank 0 then completes `partial`, gives it its name and removes old checkpoints."""
        folder = step_folder(self.train_dir, step)
        try:
            with naming(folder):
                if self.world.is_first:
                    (partial / SHARDS).mkdir(parents=True, exist_ok=True)
                if self.world.size > 1:
                    write_shard(partial / SHARDS, tensors, self.world)
                if not self.world.is_first:
                    return
                if self.world.size > 1:
                    deadline = self._started_at + WRITE_TIMEOUT_S
                    digests = write_index(partial / SHARDS, self.world, deadline, self._is_closing)
                else:
                    (partial / SHARDS).rmdir()
                    _write_whole(partial, tensors)
                    digests = {}
                write_model(partial)
                record = {"format_version": FORMAT_VERSION, "step": step, **state}
                write_json(layout.trainer_state(partial), record)
                write_digests(partial, digests)
                os.replace(partial, folder)
                flush_to_disk(self.train_dir)
                remove_old(self.train_dir, self.keep_last, self.keep_every_samples)
        except BaseException:
            if self.world.is_first:
                shutil.rmtree(partial, ignore_errors=True)  # it may fill the disk
            raise

    def wait(self) -> None:
        """Wait until the checkpoint in progress is complete on disk.

        Raises what went wrong in the thread; WorkStopped if it still writes WRITE_TIMEOUT_S after its start.
        """
        running = self._running
        self._running = None
        if running is None:
            return
        futures.wait([running], self._remaining_s())
        if not running.done():
            raise WorkStopped(
                f"{self._folder}: rank {self.world.rank} has not written its part within {WRITE_TIMEOUT_S // 60} "
                "minutes: its file system hangs. Run the same command again to resume from the checkpoint before. If "
                "it recurs, leave out this machine"
            )
        running.result()

    def close(self) -> None:
        """Wait for the thread, without raising its errors; for other ranks, which may be dead, CLOSE_TIMEOUT_S."""
        self._is_closing.set()
        if self._running is not None:
            futures.wait([self._running], self._remaining_s())

    def _remaining_s(self) -> float:
        """Return the seconds that the write in progress may still take.

        Rank 0 waits WRITE_TIMEOUT_S for the notes of other ranks, and then has to report the one that is missing.
        """
        limit_s = WRITE_TIMEOUT_S + CLOSE_TIMEOUT_S * self.world.is_first
        return max(0.0, self._started_at + limit_s - time.monotonic())


def _start_daemon(work: Callable[[], None]) -> futures.Future[None]:
    """Start work in a thread that does not keep the process from its exit, as those of an executor do."""
    future: futures.Future[None] = futures.Future()

    def run() -> None:
        try:
            work()
            future.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the future
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future


def _write_whole(folder: Path, tensors: Mapping[str, LocalTensor]) -> None:
    """Write model.safetensors and trainer/optimizer.safetensors from whole tensors."""
    model_names = names_in_model(tensors)
    model = {short: tensors[name].tensor for name, short in model_names.items()}
    write_state(folder / MODEL, model, {"format": "pt"})
    others = {name: tensors[name].tensor for name in tensors if name not in model_names}
    write_state(folder / OPTIMIZER, others)


def write_shard(folder: Path, tensors: Mapping[str, LocalTensor], world: World) -> None:
    """Write this rank's file to disk, then a note of what it holds, with its digest.

    If it cannot be written, the note says so: rank 0 waits for it.
    """
    stem = f"{world.rank:05}_of_{world.size:05}"
    path = folder / f"{stem}.safetensors"
    try:
        with naming(path):
            write_state(path, {name: local.tensor for name, local in tensors.items()})
            flush_to_disk(path)  # here, since another machine does not have its pages
            digest = size_and_digest(path)
    except Exception as error:  # safetensors raises errors of disks as its own
        path.unlink(missing_ok=True)  # makes room for the note on a full disk
        write_json(folder / f"{stem}.json", {_FAILED: str(error)})
        raise
    held = {}
    for name, local in tensors.items():
        piece = ShardRows(file=path.name, first_row=local.first_row, num_rows=local.num_rows)
        held[name] = ShardedTensor(shape=list(local.shape), pieces=[piece])
    write_json(folder / f"{stem}.json", {"tensors": held, "digest": digest})


def write_index(folder: Path, world: World, deadline: float, is_closing: threading.Event) -> Digests:
    """Wait for the notes of all ranks, merge them into index.json, and return the digests of the ranks' files.

    Raises OSError if a rank failed, or has not written by `deadline` (time.monotonic).  is_closing: set when the wait
    is to end in CLOSE_TIMEOUT_S.  Polling the folder instead of a collective: this runs in the writer's thread while
    the main thread trains, and collectives of two threads in one process group could pair up in different orders on
    different ranks.
    """
    index: dict[str, ShardedTensor] = {}
    digests: Digests = {}
    for rank in range(world.size):
        note = folder / f"{rank:05}_of_{world.size:05}.json"
        while not note.exists():
            now = time.monotonic()
            if is_closing.is_set():
                deadline = min(deadline, now + CLOSE_TIMEOUT_S)
            if now > deadline:
                raise TimeoutError(f"rank {rank} has not written {note.stem}; its machine or its file system is lost")
            time.sleep(_POLL_S)
        held = read_json(note)
        if _FAILED in held:
            raise OSError(f"rank {rank}: {held[_FAILED]}")
        for name, tensor in held["tensors"].items():
            index.setdefault(name, {"shape": tensor["shape"], "pieces": []})["pieces"] += tensor["pieces"]
        digests[f"{SHARDS}/{note.stem}.safetensors"] = held["digest"]
        note.unlink()
    write_json(folder / "index.json", index)
    return digests
