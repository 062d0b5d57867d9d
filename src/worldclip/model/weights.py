"""Read tensors and configurations from files, without running code that a file may hold.

What libraries raise for a model folder that somebody else made becomes a message here.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import MissingPackage, UserError, first_line, is_no_memory
from worldclip.core.regular_file import NO_FILE, NotRegular, read_regular
from worldclip.core.safe_path import is_safe_name

if TYPE_CHECKING:
    import torch

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (*PICKLES, ".safetensors")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # DistributedDataParallel's and torch.compile's prefixes


@contextmanager
def library_faults(problem: str, remedy: str = "copy or download it whole") -> Iterator[None]:
    """Raise whatever a library makes of a model's records as UserError: `problem (the error); remedy`.

    Sizes and names of others make libraries raise nearly anything: ZeroDivisionError, AssertionError, errors of their
    own.  A list of them is never complete.  A panic of the tokenizers library is no Exception, and would end the thread
    it is in.  A lack of memory is no fault of the records.
    """
    try:
        yield
    except (UserError, MissingPackage):
        raise
    except BaseException as error:
        is_fault = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if is_no_memory(error) or not is_fault:
            raise
        raise UserError(f"{problem} ({str(error) or type(error).__name__}); {remedy}") from error


def read_json_config(path: Path) -> dict[str, Any]:
    """Return the JSON object of a configuration.  Raises UserError where the file holds anything else, or NaN."""
    try:
        record = json.loads(read_regular(path).decode(), parse_constant=_refuse_constant)
    except NotRegular as error:
        raise UserError(f"{path} {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); copy or download it again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} holds a JSON {type(record).__name__}, not an object; copy or download it again")
    return record


def read_optional_config(path: Path) -> dict[str, Any]:
    """Return the JSON object of a configuration, {} where there is no file.  Raises UserError as read_json_config."""
    return read_json_config(path) if path.exists() else {}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"it has the number {name}")


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors: bare, or under `state_dict` or `model`, without the prefixes of wrappers.

    Raises UserError for a file that is cut, is not a checkpoint, or holds code besides tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix in PICKLES:
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = load_file(path)
    except pickle.UnpicklingError as error:
        # torch names the refused object as "GLOBAL module.name"
        _, _, refused = str(error).rpartition("GLOBAL ")
        reason = next(iter(refused.splitlines()), "") if "GLOBAL" in str(error) else "a broken pickle"
        raise UserError(
            f"{path} holds more than tensors ({reason}); such a file can run code when it is loaded, and is refused. "
            "Save only its state_dict, best as .safetensors"
        ) from error
    except Exception as error:  # damaged bytes make torch raise nearly anything
        if is_no_memory(error):
            raise
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript archive, which is a program, and is refused; save its state_dict"
            ) from error
        raise UserError(f"{path} is cut or corrupt ({first_line(error)}); copy or download it again") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict (name -> tensor), neither bare nor as state_dict")
    return {_WRAPPERS.sub("", name): tensor for name, tensor in content.items()}


def write_state(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, for the readers of other new files: safetensors 0.8 lets only the owner read."""
    from safetensors.torch import save_file

    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)


# What in a folder's records would make transformers fetch or run something else than its own model.
_FOREIGN = {
    "quantization_config": "starts a quantizer, whose package decides what runs",
    "attn_implementation": "names an attention kernel, which is code from the net",
    "_attn_implementation": "names an attention kernel, which is code from the net",
    "experts_implementation": "names a kernel, which is code from the net",
}
_OWN_ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2")  # of transformers itself
MAX_LAYERS = 512  # a tower is built before its tensors are compared with the files
_LAYERS = ("num_hidden_layers", "layers")
_ADAPTER = "adapter_config.json"


def refuse_foreign_code(folder: Path) -> None:
    """Raise UserError for a folder whose records name other code, another model or towers of absurd size.

    Code that `auto_map` names is never run: trust_remote_code is False wherever transformers reads a folder.
    """
    problems = []
    for path in sorted([*folder.glob("*"), *folder.glob("onnx/*")]):
        # os.path follows links, and says no where Path would raise PermissionError
        is_special = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
        if is_special:
            problems.append(f"{path} {NO_FILE}")
    if problems:  # reading a FIFO would never end
        raise UserError(problems)
    if (folder / _ADAPTER).exists():
        problems.append(
            f"{folder / _ADAPTER}: is an adapter, whose base model would be loaded from elsewhere; merge it into the "
            "model and save that"
        )
    for path in sorted(folder.glob("*config.json")):
        record = read_json_config(path)
        for key, value in _iter_items(record):
            if key in _FOREIGN and value not in (None, *_OWN_ATTENTION):
                problems.append(f"{path}: {key} = {value!r:.100} {_FOREIGN[key]}; remove it")
            if key in _LAYERS and isinstance(value, int) and not 1 <= value <= MAX_LAYERS:
                problems.append(f"{path}: {key} is {value}; a tower has 1 to {MAX_LAYERS} layers")
    if problems:
        raise UserError(problems)


def _iter_items(record: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a record and of all records in it."""
    if isinstance(record, Mapping):
        for key, value in record.items():
            yield str(key), value
            yield from _iter_items(value)
    elif isinstance(record, list):
        for item in record:
            yield from _iter_items(item)


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the file `name`, or the shards that its index names; empty where there is neither.

    Raises UserError where a shard is missing or stands outside the folder.
    """
    index = folder / f"{name}.index.json"
    if not index.exists():
        return [folder / name] if (folder / name).exists() else []
    record = read_json_config(index)
    weight_map = record.get("weight_map")
    if not isinstance(weight_map, dict):
        raise UserError(f"{index} has no weight_map; copy the whole model again")
    names = sorted({str(shard) for shard in weight_map.values()})
    outside = [shard for shard in names if not is_safe_name(shard) or "/" in shard]
    if outside:
        raise UserError(f"{index} names {', '.join(outside)}, which is not a file of this folder; it is refused")
    missing = [shard for shard in names if not (folder / shard).exists()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}, which its index names; copy the whole model again")
    return [folder / shard for shard in names]
