"""RUN/train/step_<9 digits>: a Hugging Face folder, plus trainer/ with what a resumed run needs.

    model.safetensors               the weights; under train.ema_decay their EMA
    trainer/optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>; with an EMA also weights.<parameter>
        (train.lora_rank)           also adapter.<parameter>, and base.<parameter>: what the adapters are added to
    trainer/adapter_config.json     under train.lora_rank, as peft reads it
    trainer/state.json              step, samples seen, counters; no generator state, since training uses none
    trainer/files.json              size and SHA-256 of every other file

Several ranks write an equal share of the bytes each, and nothing is gathered:

    trainer/shards/00003_of_00008.safetensors   rank 3's rows of weights, exp_avg, exp_avg_sq, ema
    trainer/shards/index.json                   which file holds which rows of each tensor

and `consolidate` makes model.safetensors from the shards.  Rows that several ranks hold (all of them under DDP, those
of a machine under HSDP) are cut among these ranks, so that each row is copied and written once.

A folder is written under another name and renamed when complete, so that a folder called step_* is whole.  files.json
shows whether the disk has corrupted it since.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from worldclip.contracts import layout
from worldclip.contracts.layout import best_of, checkpoints, step_folder
from worldclip.core.artifacts import read_json, remove, replace_folder, write_artifact, write_json
from worldclip.core.console import say
from worldclip.core.errors import UserError, naming
from worldclip.core.job import Record, Report
from worldclip.core.safe_path import is_safe_name, safe_join

if TYPE_CHECKING:
    import torch

    from worldclip.train.distributed import World

FILES = f"{layout.TRAINER}/files.json"
MODEL, OPTIMIZER = "model.safetensors", f"{layout.TRAINER}/optimizer.safetensors"
_FAILED = "failed"  # key of a rank's note: why it could not write its rows
_SHARDS = f"{layout.TRAINER}/shards"
_INDEX = f"{_SHARDS}/index.json"
_POLL_S = 0.02  # between looks for the notes of the other ranks
_NOTE_TIMEOUT_S = 30 * 60  # a rank that has not written its rows by then is lost
MAX_FAILED_SAVES = 3  # in a row: training goes on without a new checkpoint for so long


class ShardRows(TypedDict):
    """Rows of a tensor in one file of trainer/shards."""

    file: str
    first_row: int
    num_rows: int
    stride: NotRequired[int]
    """From each of these rows to the next; 1 if absent."""


class ShardedTensor(TypedDict):
    """An entry of trainer/shards/index.json."""

    shape: list[int]
    pieces: list[ShardRows]


Digests = dict[str, dict[str, int | str]]
"""Contents of FILES: size and SHA-256 of each file, by its path in the folder."""


@dataclass(frozen=True, slots=True)
class LocalTensor:
    """A tensor, or this rank's rows of it.  A tensor without dimensions is one row."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    first_row: int
    """The row of the whole tensor that is the first of `tensor`."""
    stride: int = 1
    """From each row of `tensor` to the next, in rows of the whole tensor."""

    @property
    def num_rows(self) -> int:
        return len(self.tensor) if self.shape else 1

    def rows(self, start: int, stop: int) -> LocalTensor:
        """Return rows [start, stop) of these.  Memory is shared."""
        tensor = self.tensor[start:stop] if self.shape else self.tensor
        return dataclasses.replace(self, tensor=tensor, first_row=self.first_row + start * self.stride)

    def copy(self) -> LocalTensor:
        """Copy the tensor to the CPU."""
        return dataclasses.replace(self, tensor=self.tensor.detach().to("cpu", copy=True).contiguous())


def cut_share(tensors: Mapping[str, LocalTensor], index: int, count: int) -> dict[str, LocalTensor]:
    """Return share `index` of `count`: consecutive rows of all tensors laid end to end, of equal bytes up to a row.

    Consecutive rows, so that most tensors are in one file: a slice of each tensor in each file would make an index of a
    million entries for a model of 800 tensors on 384 ranks.
    """
    total = sum(local.tensor.nbytes for local in tensors.values())
    first_byte, last_byte = (total * i // count for i in (index, index + 1))
    share, offset = {}, 0
    for name, local in tensors.items():
        row_bytes = max(1, local.tensor.nbytes // max(1, local.num_rows))
        # a row belongs to the share in which it starts
        start, stop = (
            min(max(-(-(byte - offset) // row_bytes), 0), local.num_rows) for byte in (first_byte, last_byte)
        )
        if start < stop:
            share[name] = local.rows(start, stop)
        offset += local.tensor.nbytes
    return share


# writing


class CheckpointWriter:
    """Writes checkpoints in a thread while training continues, one at a time.

    A failed write costs that checkpoint; training goes on to the next one, MAX_FAILED_SAVES times in a row at most.
    """

    def __init__(self, train_dir: Path, world: World, keep_last: int, keep_every_samples: int = 0) -> None:
        """keep_last, keep_every_samples: see remove_old."""
        self.train_dir, self.world = train_dir, world
        self.keep_last, self.keep_every_samples = keep_last, keep_every_samples
        self.num_failed = 0  # in a row
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def start(
        self,
        step: int,
        tensors: Mapping[str, LocalTensor],
        state: Record,
        write_model: Callable[[Path], object],
    ) -> None:
        """Start to write step_<step>, after the checkpoint before it is complete.  Every rank must call this.

        tensors: as train_state.copy_to_cpu names them.  state: further keys of state.json.  write_model: fills a folder
        with configuration, tokenizer and preprocessing.
        """
        from worldclip.train.distributed import barrier

        is_sharded = self.world.size > 1
        self._wait_or_warn()
        partial = self.train_dir / f".{step_folder(self.train_dir, step).name}.tmp"
        if self.world.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            (partial / _SHARDS).mkdir(parents=True)
        barrier(self.world)
        folder = step_folder(self.train_dir, step)

        def write() -> None:
            with naming(folder):
                if is_sharded:
                    _write_shard(partial / _SHARDS, tensors, self.world)
                if not self.world.is_first:
                    return
                if is_sharded:
                    digests = _write_index(partial / _SHARDS, self.world)
                else:
                    (partial / _SHARDS).rmdir()
                    _write_whole(partial, tensors)
                    digests = {}
                write_model(partial)
                write_json(layout.trainer_state(partial), {"step": step, **state})
                _write_digests(partial, digests)
                os.replace(partial, folder)
                _fsync(self.train_dir)
                remove_old(self.train_dir, self.keep_last, self.keep_every_samples)

        def write_or_remove() -> None:
            try:
                write()
            except BaseException:
                if self.world.is_first:
                    shutil.rmtree(partial, ignore_errors=True)  # it may fill the disk
                raise

        self._running = self._thread.submit(write_or_remove)

    def _wait_or_warn(self) -> None:
        """Wait for the checkpoint in progress.  Raises its error only after MAX_FAILED_SAVES of them in a row."""
        try:
            self.wait()
            self.num_failed = 0
        except OSError as error:
            self.num_failed += 1
            if self.num_failed == MAX_FAILED_SAVES:
                raise
            if self.world.is_first:
                say("train", f"WARNING: a checkpoint was not written ({error}); training goes on to the next one")

    def wait(self) -> None:
        """Wait until the checkpoint in progress is complete on disk.  Raises what went wrong in the thread."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        """Wait for the thread, without raising its errors."""
        self._thread.shutdown(wait=True)


def _names_in_model(names: Iterable[str]) -> dict[str, str]:
    """Map each tensor of model.safetensors to its name there: the EMA if there is one, and never SigLIP's bias."""
    kind = "ema." if any(name.startswith("ema.") for name in names) else "weights."
    return {name: name.removeprefix(kind) for name in names if name.startswith(kind) and name != f"{kind}logit_bias"}


def _write_whole(folder: Path, tensors: Mapping[str, LocalTensor]) -> None:
    """Write model.safetensors and trainer/optimizer.safetensors from whole tensors."""
    from safetensors.torch import save_file

    model_names = _names_in_model(tensors)
    model = {short: tensors[name].tensor for name, short in model_names.items()}
    save_file(model, folder / MODEL, metadata={"format": "pt"})
    save_file({name: tensors[name].tensor for name in tensors if name not in model_names}, folder / OPTIMIZER)


def _write_shard(folder: Path, tensors: Mapping[str, LocalTensor], world: World) -> None:
    """Write this rank's file to disk, then a note of what it holds, with its digest.

    If it cannot be written, the note says so: rank 0 waits for it.
    """
    from safetensors.torch import save_file

    stem = f"{world.rank:05}_of_{world.size:05}"
    path = folder / f"{stem}.safetensors"
    try:
        with naming(path):
            save_file({name: local.tensor for name, local in tensors.items()}, path)
            _fsync(path)  # by the machine that wrote it: another one does not have its pages
            digest = _size_and_digest(path)
    except OSError as error:
        path.unlink(missing_ok=True)  # makes room for the note on a full disk
        write_json(folder / f"{stem}.json", {_FAILED: str(error)})
        raise
    held = {
        name: ShardedTensor(shape=list(local.shape), pieces=[_piece(path, local)]) for name, local in tensors.items()
    }
    write_json(folder / f"{stem}.json", {"tensors": held, "digest": digest})


def _piece(path: Path, local: LocalTensor) -> ShardRows:
    piece = ShardRows(file=path.name, first_row=local.first_row, num_rows=local.num_rows)
    if local.stride != 1:
        piece["stride"] = local.stride
    return piece


def _write_index(folder: Path, world: World) -> Digests:
    """Wait for the notes of all ranks, merge them into index.json, and return the digests of the ranks' files.

    Raises OSError if a rank failed or is lost.  Polling the folder instead of a collective: this runs in the writer's
    thread while the main thread trains, and collectives of two threads in one process group could pair up in different
    orders on different ranks.
    """
    index: dict[str, ShardedTensor] = {}
    digests: Digests = {}
    deadline = time.monotonic() + _NOTE_TIMEOUT_S
    for rank in range(world.size):
        note = folder / f"{rank:05}_of_{world.size:05}.json"
        while not note.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {rank} did not write {note.stem} within {_NOTE_TIMEOUT_S // 60} minutes")
            time.sleep(_POLL_S)
        held = read_json(note)
        if _FAILED in held:
            raise OSError(f"rank {rank}: {held[_FAILED]}")
        for name, tensor in held["tensors"].items():
            index.setdefault(name, {"shape": tensor["shape"], "pieces": []})["pieces"] += tensor["pieces"]
        digests[f"{_SHARDS}/{note.stem}.safetensors"] = held["digest"]
        note.unlink()
    write_json(folder / "index.json", index)
    return digests


def _write_digests(folder: Path, digests: Digests) -> None:
    """Write trainer/files.json, after everything else is on disk.

    digests: of files that are on disk already, by path in the folder.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILES)
    names = [path.relative_to(folder).as_posix() for path in files]
    missing = {name: path for name, path in zip(names, files, strict=True) if name not in digests}
    all_digests = {**digests, **{name: _size_and_digest(path) for name, path in missing.items()}}
    write_json(folder / FILES, {name: all_digests[name] for name in names})
    for path in missing.values():
        _fsync(path)


def remove_old(train_dir: Path, keep_last: int, keep_every_samples: int = 0) -> None:
    """Remove all checkpoints but the newest `keep_last`, the best, and the first after each `keep_every_samples`."""
    best, last_kept = best_of(train_dir), 0
    for old in checkpoints(train_dir)[:-keep_last]:
        if keep_every_samples:
            intervals = read_state(old)["samples_seen"] // keep_every_samples
            if intervals > last_kept:
                last_kept = intervals
                continue
        if old != best:
            remove(old)  # no folder called step_* is ever partial


def consolidate(folder: Path) -> None:
    """Write model.safetensors of a sharded checkpoint; do nothing if it is there."""
    from safetensors.torch import save_file

    if (folder / MODEL).exists():
        return
    reader = CheckpointReader(folder)
    model = {short: reader.read(name) for name, short in _names_in_model(reader.tensors).items()}
    write_artifact(folder / MODEL, lambda aside: save_file(model, aside, metadata={"format": "pt"}))
    recorded = read_json(folder / FILES) if (folder / FILES).exists() else {}
    _write_digests(folder, recorded)  # the others as recorded: a new digest would hide that a file is corrupt


# reading


class CheckpointReader:
    """Reads tensors, or rows of them, by the names of train_state.copy_to_cpu, from either layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Any] = {}  # a file of each rank that wrote, not one of each tensor
        self.updates: int = read_state(folder)["updates"]
        self.tensors: Mapping[str, ShardedTensor | tuple[str, str]]
        """By name: the rows in each file of trainer/shards, or (file, name in it) of a whole tensor."""
        if (folder / _INDEX).exists():
            self.tensors = read_json(folder / _INDEX)
            return
        stored = list(self._open(OPTIMIZER).keys())
        has_ema = any(name.startswith("weights.") and name != "weights.logit_bias" for name in stored)
        kind = "ema" if has_ema else "weights"
        self.tensors = {name: (OPTIMIZER, name) for name in stored} | {
            f"{kind}.{name}": (MODEL, name)
            for name in self._open(MODEL).keys()  # noqa: SIM118
        }

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Return a tensor, or some rows of it.  Raises UserError if the checkpoint lacks it, or some of the rows."""
        import torch

        entry = self.tensors.get(name)
        if entry is None:
            raise UserError(f"{self.folder}: no tensor {name}; the checkpoint is of another model")
        if isinstance(entry, tuple):
            return self._read_rows(*entry, rows)
        shape, pieces = entry["shape"], entry["pieces"]
        if not shape:
            return self._read_rows(f"{_SHARDS}/{pieces[0]['file']}", name, None)
        wanted = range(shape[0])[rows or slice(None)]
        whole, num_read = torch.zeros((len(wanted), *shape[1:])), 0
        for piece in pieces:
            source, target = _rows_in_common(piece, wanted)
            if len(source):
                first = int(source[0])
                part = self._read_rows(f"{_SHARDS}/{piece['file']}", name, slice(first, int(source[-1]) + 1))
                if not num_read:
                    whole = whole.to(part.dtype)
                whole[target] = part[source - first]
                num_read += len(source)
        if num_read != len(wanted):
            raise UserError(f"{self.folder}: {num_read} of {len(wanted)} rows of {name}; the checkpoint is incomplete")
        return whole

    def _open(self, file: str) -> Any:
        from safetensors import safe_open

        if file not in self._opened:
            self._opened[file] = safe_open(safe_join(self.folder, file), framework="pt")
        return self._opened[file]

    def _read_rows(self, file: str, name: str, rows: slice | None) -> torch.Tensor:
        opened = self._open(file)
        if rows is None:
            tensor: torch.Tensor = opened.get_tensor(name)
            return tensor
        part: torch.Tensor = opened.get_slice(name)[rows.start : rows.stop]
        part = part[:: rows.step]  # safetensors reads no strides
        return part


def _rows_in_common(piece: ShardRows, wanted: range) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 (rows of the piece, as numbered in its file; their places in `wanted`)."""
    held = piece["first_row"] + piece.get("stride", 1) * np.arange(piece["num_rows"])
    place, remainder = np.divmod(held - wanted.start, wanted.step)
    source = np.flatnonzero((remainder == 0) & (place >= 0) & (place < len(wanted)))
    return source, place[source]


def find_corruption(folder: Path) -> str | None:
    """Return which file of a checkpoint differs from what was written, None if none does."""
    try:
        files = read_json(folder / FILES)
    except (OSError, ValueError) as error:
        return f"{FILES} cannot be read ({error})"
    for name, expected in files.items():
        if not is_safe_name(name):
            return f"{FILES} names {name!r}"
        path = safe_join(folder, name)
        if not path.exists():
            return f"{name} is missing"
        if _size_and_digest(path) != expected:
            return f"{name} differs from its digest"
    return None


def latest_valid_checkpoint(train_dir: Path) -> Path | None:
    """Return the newest checkpoint that is not corrupt, None if there is no checkpoint.

    Corrupt checkpoints are renamed to step_*.corrupt and logged as warnings.  Raises UserError if all are corrupt:
    training does not start over by itself.
    """
    corrupt = []
    for folder in reversed(checkpoints(train_dir)):
        problem = find_corruption(folder)
        if problem is None:
            return folder
        renamed = folder.with_name(f"{folder.name}.corrupt")
        replace_folder(folder, renamed)
        corrupt.append(f"{folder}: {problem}")
        say("train", f"WARNING: {folder.name} is corrupt ({problem}); renamed to {renamed.name}, trying an older one")
    if corrupt:
        raise UserError([*corrupt, "all checkpoints are corrupt; restart training with --from train"])
    return None


def read_state(folder: Path) -> Report:
    """Read trainer/state.json: step, samples seen, counters."""
    state: Report = read_json(layout.trainer_state(folder))
    return state


def _size_and_digest(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _fsync(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
