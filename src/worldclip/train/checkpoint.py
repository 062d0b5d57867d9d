"""RUN/train/step_<9 digits>: a Hugging Face folder, plus trainer/ with what a resumed run needs.

    model.safetensors               the weights
    trainer/optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>
        (train.lora_rank)           also adapter.<parameter>, and base.<parameter>: what the adapters are added to
    adapters/                       under train.lora_rank: what learns, as peft reads it
    trainer/state.json              format, step, samples seen, counters; no generator state: training uses none
    trainer/files.json              size and SHA-256 of every other file

Several ranks write an equal share of the bytes each, and nothing is gathered:

    trainer/shards/00003_of_00008.safetensors   rank 3's rows of weights, exp_avg, exp_avg_sq
    trainer/shards/index.json                   which file holds which rows of each tensor

and `consolidate` makes model.safetensors from the shards.  Rows that several ranks hold (all of them under DDP, those
of a machine under HSDP) are cut among these ranks, so that each row is copied and written once.

A folder is written under another name and renamed when complete, so that a folder called step_* is whole.  files.json
shows whether the disk has corrupted it since.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from worldclip.contracts import layout
from worldclip.contracts.layout import best_of, checkpoints
from worldclip.core.artifacts import read_json, remove, replace_folder
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.job import Report
from worldclip.core.job_files import read_record
from worldclip.core.safe_path import is_safe_name, safe_join

if TYPE_CHECKING:
    import torch

FILES = f"{layout.TRAINER}/files.json"
MODEL = "model.safetensors"
OPTIMIZER = f"{layout.TRAINER}/optimizer.safetensors"
SHARDS = f"{layout.TRAINER}/shards"
INDEX = f"{SHARDS}/index.json"


class ShardRows(TypedDict):
    """Rows of a tensor in one file of trainer/shards."""

    file: str
    first_row: int
    num_rows: int


class ShardedTensor(TypedDict):
    """An entry of trainer/shards/index.json."""

    shape: list[int]
    pieces: list[ShardRows]


Digests = dict[str, dict[str, int | str]]
"""Contents of FILES: size and SHA-256 of each file, by its path in the folder."""


class CheckpointReader:
    """Reads tensors, or rows of them, by the names of checkpoint_writer.copy_to_cpu, from either layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Any] = {}  # a file of each rank that wrote, not one of each tensor
        self.updates: int = read_state(folder)["updates"]
        self.tensors: Mapping[str, ShardedTensor | tuple[str, str]]
        """By name: the rows in each file of trainer/shards, or (file, name in it) of a whole tensor."""
        if (folder / INDEX).exists():
            self.tensors = read_json(folder / INDEX)
            return
        self.tensors = {name: (OPTIMIZER, name) for name in self._open(OPTIMIZER).keys()}  # noqa: SIM118
        self.tensors |= {f"weights.{name}": (MODEL, name) for name in self._open(MODEL).keys()}  # noqa: SIM118

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """Return a tensor, or consecutive rows of it.  Raises UserError if the checkpoint lacks some of them."""
        import torch

        entry = self.tensors.get(name)
        if entry is None:
            raise UserError(f"{self.folder}: no tensor {name}; the checkpoint is of another model")
        if isinstance(entry, tuple):
            return self._read_rows(*entry, rows)
        shape = entry["shape"]
        pieces = entry["pieces"]
        if not shape:
            return self._read_rows(f"{SHARDS}/{pieces[0]['file']}", name, None)
        wanted = range(shape[0])[rows or slice(None)]
        whole = torch.zeros((len(wanted), *shape[1:]))
        num_read = 0
        for piece in pieces:
            first = piece["first_row"]
            start = max(wanted.start, first)
            stop = min(wanted.stop, first + piece["num_rows"])
            if start < stop:
                part = self._read_rows(f"{SHARDS}/{piece['file']}", name, slice(start - first, stop - first))
                whole[start - wanted.start : stop - wanted.start] = part
                num_read += stop - start
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
        return part


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
        if size_and_digest(path) != expected:
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
        raise UserError([*corrupt, "all checkpoints are corrupt; move the folder away (mv) and train anew"])
    return None


def drop_best_of_removed(train_dir: Path, checkpoint: Path | None) -> None:
    """Remove best.json if it names a step after the checkpoint that training goes on from: its weights are gone."""
    path = train_dir / layout.BEST
    if path.exists() and (checkpoint is None or read_json(path)["step"] > layout.step_of(checkpoint)):
        path.unlink()


def read_state(folder: Path) -> Report:
    """Read trainer/state.json: step, samples seen, counters.

    Raises UserError for a checkpoint of a newer format, or without this file.
    """
    path = layout.trainer_state(folder)
    state = read_record(path)
    if state is None:
        raise UserError(f"{path} is missing; the checkpoint is incomplete")
    return {name: value for name, value in state.items() if name != "format_version"}


def size_and_digest(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def flush_to_disk(path: Path) -> None:
    """Flush a file or a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# tensors and files


def names_in_model(names: Iterable[str]) -> dict[str, str]:
    """Map each tensor of model.safetensors to its name there: all weights but SigLIP's bias."""
    weights = [name for name in names if name.startswith("weights.") and name != "weights.logit_bias"]
    return {name: name.removeprefix("weights.") for name in weights}


def write_digests(folder: Path, digests: Digests) -> None:
    """Write trainer/files.json, after everything else is on disk, into a folder that must exist.

    digests: those of the files that are on disk already, by path in the folder.
    """
    all_digests: Digests = {}
    for path in sorted(folder.rglob("[!.]*")):
        if not path.is_file() or path == folder / FILES:
            continue
        name = path.relative_to(folder).as_posix()
        if name in digests:
            all_digests[name] = digests[name]
        else:
            all_digests[name] = size_and_digest(path)
            flush_to_disk(path)
    content = json.dumps(all_digests, ensure_ascii=False, indent=1)
    _replace_file(folder / FILES, lambda aside: aside.write_text(f"{content}\n", encoding="utf-8"))


def _replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole, as whole_file does, but make no folder: a checkpoint may be removed meanwhile."""
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        write(aside)
        flush_to_disk(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def remove_old(train_dir: Path, keep_last: int, keep_every_samples: int = 0) -> None:
    """Remove all checkpoints but the newest `keep_last`, the best, and the first after each `keep_every_samples`."""
    best = best_of(train_dir)
    last_kept = 0
    for old in checkpoints(train_dir)[:-keep_last]:
        if keep_every_samples:
            intervals = read_state(old)["samples_seen"] // keep_every_samples
            if intervals > last_kept:
                last_kept = intervals
                continue
        if old != best:
            remove(old)  # no folder called step_* is ever partial


def consolidate(folder: Path) -> None:
    """Write model.safetensors of a sharded checkpoint; do nothing if it is there.

    Raises UserError if training removes the checkpoint meanwhile.
    """
    from worldclip.model.weights import write_state

    if (folder / MODEL).exists():
        return
    try:
        reader = CheckpointReader(folder)
        model = {short: reader.read(name) for name, short in names_in_model(reader.tensors).items()}
        _replace_file(folder / MODEL, lambda aside: write_state(aside, model, {"format": "pt"}))
        recorded = read_json(folder / FILES) if (folder / FILES).exists() else {}
        write_digests(folder, recorded)  # the others as recorded: a new digest would hide that a file is corrupt
    except Exception as error:  # safetensors raises errors of its own
        if folder.exists():
            raise
        raise UserError(
            f"{folder} was removed meanwhile, as training does with old checkpoints (train.keep_last); take a newer one"
        ) from error
