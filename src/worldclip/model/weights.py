"""Tensors from files, without running anything that stands in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError

if TYPE_CHECKING:
    import torch

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (*PICKLES, ".safetensors")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors: bare, or under `state_dict` or `model`, prefixes of wrappers taken off.

    Raises UserError for a file that is cut, is not a checkpoint, or holds code besides tensors.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no checkpoint that worldclip knows; it reads {', '.join(SUFFIXES)}")
    found = _read_pickle(path) if path.suffix in PICKLES else _read_safetensors(path)
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    return _only_tensors(path, found)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(_cut(path, error)) from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("GLOBAL ")[-1].splitlines()[0] if "GLOBAL" in str(error) else "a broken pickle"
        raise UserError(
            f"{path} holds more than tensors ({reason}); such a file can run code when it is loaded, and is refused. "
            "Save its state_dict alone, best as .safetensors"
        ) from error
    except (RuntimeError, EOFError) as error:
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive, which is a program, and is refused; save its state_dict"
            ) from error
        raise UserError(_cut(path, error)) from error


def _only_tensors(path: Path, found: Any) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{path} holds no table of tensors, neither bare nor as state_dict; give a model's checkpoint")
    state = {}
    for name, tensor in found.items():
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        state[name] = tensor
    return state


def safetensors_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Name -> shape of a Hugging Face folder's tensors, read from the files' heads; None where it has no safetensors.

    Raises UserError where a file is missing or cut.
    """
    from safetensors import SafetensorError, safe_open

    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        files = [folder / name for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
    elif single.exists():
        files = [single]
    else:
        return None
    if missing := [file.name for file in files if not file.exists()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}, which its index names; copy the whole model again")
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise UserError(_cut(file, error)) from error
    return found


def _cut(path: Path, error: Exception) -> str:
    return f"{path} is cut or damaged ({str(error).splitlines()[0]}); copy or download it again"
