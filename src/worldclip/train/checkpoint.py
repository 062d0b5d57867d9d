"""RUN/train/step_<9 digits>: a Hugging Face folder, plus trainer/ with what a resumed run needs.

    model.safetensors               the weights; under train.ema_decay their slow copy
    trainer/optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>; beside a slow copy weights.<parameter>
    trainer/state.json              step, samples seen, counters; no generator state: there is none
    trainer/files.json              size and SHA-256 of every other file

Where the ranks hold rows of the tensors, each writes its own and nothing is gathered:

    trainer/shards/00003_of_00008.safetensors   weights, exp_avg, exp_avg_sq, ema of rank 3's rows
    trainer/shards/index.json                   where the rows of each tensor are

and `consolidate` makes model.safetensors from them.  A folder is filled aside and renamed, so that what is called
step_* is whole; a disk may still spoil it later, which `files.json` finds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.layout import best_of, checkpoints, step_folder

if TYPE_CHECKING:
    import torch

    from worldclip.train.distributed import World

FILES = "trainer/files.json"
_OPTIMIZER, _SHARDS, _INDEX = "trainer/optimizer.safetensors", "trainer/shards", "trainer/shards/index.json"
_POLL_S = 0.02  # between looks whether the other ranks have written their part


# writing


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor, or this rank's rows of it."""

    tensor: torch.Tensor
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first_row: int | None
    """None: the tensor is whole here, and the same on each rank."""

    @classmethod
    def copy(cls, tensor: torch.Tensor, shape: tuple[int, ...], first_row: int | None) -> Piece:
        """A copy in memory of the CPU, which later steps do not change."""
        return cls(tensor.detach().to("cpu", copy=True).contiguous(), shape, first_row)


class Writer:
    """Writes checkpoints in a thread while training goes on; one at a time."""

    def __init__(self, train_dir: Path, world: World, keep_last: int) -> None:
        self.train_dir, self.world, self.keep_last = train_dir, world, keep_last
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def start(
        self, step: int, pieces: Mapping[str, Piece], state: dict[str, Any], write_model: Callable[[Path], object]
    ) -> None:
        """Begin to write step_<step>, which every rank must ask for; waits for the one before.

        write_model: fills a folder with configuration, tokenizer and preprocessing.
        """
        from worldclip.train.distributed import barrier

        self.wait()
        aside = self.train_dir / f".{step_folder(self.train_dir, step).name}.tmp"
        if self.world.is_first:
            shutil.rmtree(aside, ignore_errors=True)
            (aside / _SHARDS).mkdir(parents=True)
        barrier(self.world)
        self._running = self._thread.submit(self._write, aside, step, pieces, state, write_model)

    def wait(self) -> None:
        """Until what was begun is whole on disk; raises what went wrong."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _write(
        self,
        aside: Path,
        step: int,
        pieces: Mapping[str, Piece],
        state: dict[str, Any],
        write_model: Callable[[Path], object],
    ) -> None:
        is_sharded = any(piece.first_row is not None for piece in pieces.values())
        if is_sharded:
            _write_shard(aside / _SHARDS, pieces, self.world)
        if not self.world.is_first:
            return
        if is_sharded:
            _write_index(aside / _SHARDS, pieces, self.world)
        else:
            (aside / _SHARDS).rmdir()
            _write_whole(aside, pieces)
        write_model(aside)
        write_json(aside / "trainer" / "state.json", {"step": step, **state})
        _describe_files(aside)
        os.replace(aside, step_folder(self.train_dir, step))
        _sync(self.train_dir)
        drop_old(self.train_dir, self.keep_last)


def _write_whole(aside: Path, pieces: Mapping[str, Piece]) -> None:
    from safetensors.torch import save_file

    source = "ema" if any(name.startswith("ema.") for name in pieces) else "weights"
    model, rest = {}, {}
    for name, piece in pieces.items():
        kind, _, parameter = name.partition(".")
        if kind == source and parameter != "logit_bias":
            model[parameter] = piece.tensor
        else:
            rest[name] = piece.tensor
    save_file(model, aside / "model.safetensors", metadata={"format": "pt"})
    save_file(rest, aside / _OPTIMIZER)


def _write_shard(folder: Path, pieces: Mapping[str, Piece], world: World) -> None:
    """This rank's file: its rows, and on the first rank what is whole; then a note that it is there."""
    from safetensors.torch import save_file

    own = {name: piece for name, piece in pieces.items() if piece.first_row is not None or world.is_first}
    name = f"{world.rank:05}_of_{world.size:05}"
    save_file({key: piece.tensor for key, piece in own.items()}, folder / f"{name}.safetensors")
    rows = {key: [piece.first_row or 0, len(piece.tensor) if piece.shape else 0] for key, piece in own.items()}
    write_json(folder / f"{name}.json", rows)


def _write_index(folder: Path, pieces: Mapping[str, Piece], world: World) -> None:
    """Wait for all ranks' notes and put them together."""
    index: dict[str, Any] = {name: {"shape": list(piece.shape), "pieces": []} for name, piece in pieces.items()}
    for rank in range(world.size):
        note = folder / f"{rank:05}_of_{world.size:05}.json"
        while not note.exists():
            time.sleep(_POLL_S)
        for name, (first, num_rows) in read_json(note).items():
            piece = {"file": note.with_suffix(".safetensors").name, "first_row": first, "num_rows": num_rows}
            index[name]["pieces"].append(piece)
        note.unlink()
    write_json(folder / "index.json", index)


def _describe_files(folder: Path) -> None:
    """trainer/files.json, after everything is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILES)
    write_json(folder / FILES, {path.relative_to(folder).as_posix(): _describe(path) for path in files})
    for path in files:
        _sync(path)


def drop_old(train_dir: Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints and the best one."""
    best = best_of(train_dir)
    for old in checkpoints(train_dir)[:-keep_last]:
        if old != best:
            dropped = old.with_name(f".{old.name}.old")
            os.replace(old, dropped)
            shutil.rmtree(dropped)


def consolidate(folder: Path) -> None:
    """Make model.safetensors of a checkpoint that ranks wrote in shards; nothing to do where it is there."""
    from safetensors.torch import save_file

    if (folder / "model.safetensors").exists():
        return
    stored = Tensors(folder)
    source = "ema" if any(name.startswith("ema.") for name in stored.names) else "weights"
    names = [name for name in stored.names if name.startswith(f"{source}.") and name != f"{source}.logit_bias"]
    model = {name.partition(".")[2]: stored.read(name) for name in names}
    aside = folder / ".model.safetensors.tmp"
    save_file(model, aside, metadata={"format": "pt"})
    os.replace(aside, folder / "model.safetensors")
    _describe_files(folder)


# reading


class Tensors:
    """The tensors of a checkpoint by the names of Writer's pieces, whole or some rows, however it was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.updates: int = read_json(folder / "trainer" / "state.json")["updates"]
        self._places: dict[str, tuple[str, str]] = {}
        self._index: dict[str, Any] = {}
        if (folder / _INDEX).exists():
            self._index = read_json(folder / _INDEX)
            return
        for file, prefix in (("model.safetensors", "weights."), (_OPTIMIZER, "")):
            self._places |= {prefix + name: (file, name) for name in self._open(file).keys()}  # noqa: SIM118
        if any(name.startswith("weights.") for name in self._open(_OPTIMIZER).keys() if name != "weights.logit_bias"):  # noqa: SIM118
            names = self._open("model.safetensors").keys()
            self._places |= {f"ema.{name}": ("model.safetensors", name) for name in names}

    @property
    def names(self) -> list[str]:
        return list(self._index or self._places)

    def __contains__(self, name: str) -> bool:
        return name in self._index or name in self._places

    def read(self, name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
        """A tensor, or its rows [first, last).  Raises UserError where the checkpoint has none of that name."""
        import torch

        if name not in self:
            raise UserError(f"{self.folder}: it holds no {name}; it belongs to another model")
        if name in self._places:
            file, stored = self._places[name]
            return self._slice(file, stored, rows)
        shape = self._index[name]["shape"]
        pieces = sorted(self._index[name]["pieces"], key=lambda piece: piece["first_row"])
        if not shape:
            return self._slice(f"{_SHARDS}/{pieces[0]['file']}", name, None)
        first, last = rows or (0, shape[0])
        found = []
        for piece in pieces:
            start, stop = piece["first_row"], piece["first_row"] + piece["num_rows"]
            inner = (max(first, start) - start, min(last, stop) - start)
            if inner[0] < inner[1]:
                found.append(self._slice(f"{_SHARDS}/{piece['file']}", name, inner))
        if not found:  # more ranks than rows: this one has none
            return torch.zeros((0, *shape[1:]))
        return torch.cat(found)

    def _open(self, file: str) -> Any:
        from safetensors import safe_open

        return safe_open(self.folder / file, framework="pt")

    def _slice(self, file: str, name: str, rows: tuple[int, int] | None) -> torch.Tensor:
        opened = self._open(file)
        return opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows[0] : rows[1]]


def find_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, None where they are as they were written."""
    try:
        files = read_json(folder / FILES)
    except (OSError, ValueError) as error:
        return f"{FILES} cannot be read ({error})"
    for name, wanted in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _describe(path) != wanted:
            return f"{name} is not as it was written"
    return None


def usable_checkpoint(train_dir: Path) -> Path | None:
    """The newest checkpoint whose files are whole; spoiled ones are moved aside, said loudly.

    Raises UserError where there are checkpoints and none is whole: nothing is started over silently.
    """
    found = checkpoints(train_dir)
    spoiled = []
    for folder in reversed(found):
        fault = find_fault(folder)
        if fault is None:
            return folder
        aside = folder.with_name(f"{folder.name}.corrupt")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)
        spoiled.append(f"{folder}: {fault}")
        say("train", f"WARNING: {folder.name} is corrupt ({fault}); moved to {aside.name}, the one before it is used")
    if spoiled:
        raise UserError([*spoiled, "no checkpoint is whole; --from train starts anew"])
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """trainer/state.json: step, samples seen, counters."""
    return read_json(folder / "trainer" / "state.json")


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
