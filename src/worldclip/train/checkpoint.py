"""RUN/train/step_<9 digits>: a Hugging Face folder, plus trainer/ with what a resumed run needs.

    trainer/optimizer.safetensors   exp_avg.<parameter>, exp_avg_sq.<parameter>
    trainer/state.json              step, samples seen, counters; no generator state: there is none
    trainer/files.json              size and SHA-256 of every other file

A folder is filled aside and renamed, so that what is called step_* is whole; a disk may still spoil it later, which
`files.json` finds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.errors import UserError
from worldclip.execute import say
from worldclip.formats import read_json, write_json

if TYPE_CHECKING:
    import torch
    from transformers import MetaClip2Model

FILES = "trainer/files.json"
_STEP = re.compile(r"step_\d{9}")


def step_folder(train_dir: Path, step: int) -> Path:
    return train_dir / f"step_{step:09}"


def checkpoints(train_dir: Path) -> list[Path]:
    """The checkpoints of RUN/train, oldest first."""
    if not train_dir.is_dir():
        return []
    return sorted(path for path in train_dir.iterdir() if _STEP.fullmatch(path.name))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run, None where there is none."""
    found = checkpoints(run_dir / "train")
    return found[-1] if found else None


def save_checkpoint(
    train_dir: Path,
    step: int,
    *,
    model: MetaClip2Model,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    write_processor: Callable[[Path], object],
    keep_last: int,
) -> Path:
    """Write step_<step>, then drop all but the `keep_last` newest.

    write_processor: fills a folder with the tokenizer's and the image processor's files.
    """
    from safetensors.torch import save_file

    folder = step_folder(train_dir, step)
    aside = train_dir / f".{folder.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "trainer").mkdir(parents=True)
    model.save_pretrained(aside)
    write_processor(aside)
    save_file(_moments(model, optimizer), aside / "trainer" / "optimizer.safetensors")
    write_json(aside / "trainer" / "state.json", {"step": step, **state})
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    write_json(aside / FILES, {path.relative_to(aside).as_posix(): _describe(path) for path in files})
    for path in files:
        _sync(path)
    os.replace(aside, folder)
    _sync(train_dir)
    for old in checkpoints(train_dir)[:-keep_last]:
        dropped = old.with_name(f".{old.name}.old")
        os.replace(old, dropped)
        shutil.rmtree(dropped)
    return folder


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


def load_checkpoint(folder: Path, model: MetaClip2Model) -> dict[str, Any]:
    """Fill `model` with a checkpoint's weights; returns the state.  The configuration stays the recipe's own, so that a
    resumed run writes the same bytes as an unbroken one.
    """
    from safetensors.torch import load_model

    load_model(model, folder / "model.safetensors", strict=True)
    return read_json(folder / "trainer" / "state.json")


def load_optimizer(folder: Path, model: MetaClip2Model, optimizer: torch.optim.Optimizer, num_updates: int) -> None:
    """Fill a fresh optimizer of `model` with a checkpoint's moments.  Raises UserError where the names differ."""
    import torch
    from safetensors.torch import load_file

    if num_updates == 0:
        return
    moments = load_file(folder / "trainer" / "optimizer.safetensors")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            if f"exp_avg.{name}" not in moments:
                raise UserError(f"{folder}: the optimizer has no {name}; it belongs to another model")
            optimizer.state[parameter] = {
                "step": torch.tensor(float(num_updates), device=parameter.device if group.get("fused") else "cpu"),
                "exp_avg": moments[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": moments[f"exp_avg_sq.{name}"].to(parameter.device),
            }


def _moments(model: MetaClip2Model, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{kind}.{name}": optimizer.state[parameter][kind].contiguous()
        for name, parameter in model.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq")
        if parameter in optimizer.state
    }


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
