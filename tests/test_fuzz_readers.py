"""Damaged recipes, weights, index files and ONNX models are refused in words, whatever is wrong with them.

Lists: tests/metadata/test_sources.py.  Images: tests/model/test_decode.py.  fastText models:
tests/language/test_identify.py.  Wikitext: tests/metadata/test_wikipedia.py.  Pools: tests/pool/test_fuzz.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from programs import python
from worldclip.config import load_recipe
from worldclip.core.errors import BadShard, UserError
from worldclip.core.settings import to_toml
from worldclip.model import weights

MEMORY_BYTES = 8 * 2**30  # address space of a process that runs ONNX models
PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"../../x",
    b"-1",
    b"1e999",
    b"{",
    b"[" * 2000,
    b'"',
    b"null",
    b"=",
    b"\n",
    b"99999999999999999999",
]
SEEDS = range(60)


def damage(data: bytes, draw: random.Random) -> bytes:
    """Return a file with bytes replaced, removed, repeated or swapped with PIECES, or cut off."""
    content = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        at = draw.randrange(len(content) + 1)
        if draw.random() < 0.5:
            content[at : at + 1] = bytes([draw.randrange(256)])
        else:
            content[at : at + draw.choice([0, 1, 4, 16])] = draw.choice(PIECES)
    if draw.random() < 0.1:
        del content[draw.randrange(len(content) + 1) :]
    return bytes(content)


def read_many(folder: Path, name: str, whole: bytes, read: Callable[[Path], object], seeds: range) -> None:
    """Read damaged files; anything but UserError and BadShard is raised."""
    for seed in seeds:
        (folder / name).write_bytes(damage(whole, random.Random(seed)))
        with contextlib.suppress(UserError, BadShard):
            read(folder / name)


# --- what is read -----------------------------------------------------------------------------------------------------


def whole_recipe(folder: Path) -> bytes:
    recipe = load_recipe(
        {
            "pool": {"path": ["s3://bucket/a", "/data/b"]},
            "balance": {"english_threshold": 20_000, "tail_fractions": {"sw": 0.1}},
            "languages": {"codes": ["en", "sw", "th"]},
        }
    )
    return to_toml(recipe).encode()


def whole_weights(folder: Path) -> bytes:
    import torch
    from safetensors.torch import save_file

    path = folder / "model.safetensors"
    save_file({"a": torch.zeros(3, 4), "b.weight": torch.ones(5, dtype=torch.float16)}, path, {"format": "pt"})
    return path.read_bytes()


def whole_pickle(folder: Path) -> bytes:
    import torch

    path = folder / "model.pt"
    torch.save({"state_dict": {"a": torch.zeros(3, 4), "b.weight": torch.ones(5)}}, path)
    return path.read_bytes()


def whole_index(folder: Path) -> bytes:
    files = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    for name in files.values():
        (folder / name).touch()
    return json.dumps({"metadata": {"total_size": 10}, "weight_map": files}).encode()


def read_index(path: Path) -> None:
    for file in weights.weight_files(path.parent, "model.safetensors"):
        assert file.parent == path.parent


READERS: dict[str, tuple[str, Callable[[Path], bytes], Callable[[Path], object]]] = {
    "recipe": ("recipe.toml", whole_recipe, load_recipe),
    "weights": ("model.safetensors", whole_weights, weights.read_state),
    "pickle": ("model.pt", whole_pickle, weights.read_state),
    "index": ("model.safetensors.index.json", whole_index, read_index),
}
"""Name of the file, the function that makes it, given a folder, and the one that reads it."""


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_refused_in_words(kind, tmp_path):
    name, make, read = READERS[kind]
    whole = make(tmp_path)
    (tmp_path / name).write_bytes(whole)
    read(tmp_path / name)
    read_many(tmp_path, name, whole, read, SEEDS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_damaged_files_are_refused_in_words(kind, tmp_path):
    name, make, read = READERS[kind]
    start = time.monotonic()
    read_many(tmp_path, name, make(tmp_path), read, range(100, 20_100))
    assert time.monotonic() - start < 900
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB


# --- ONNX: onnxruntime is C++, so in a process of its own -----------------------------------------------------------


def small_onnx(location: str | None = None) -> bytes:
    """Return a model that adds four numbers to its input, kept in the model or in the file `location` beside it."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    tensor = helper.make_tensor("c", numbers, [4], [1.0, 2.0, 3.0, 4.0])
    if location is not None:
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="16")
    ends = [helper.make_tensor_value_info(name, numbers, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def read_onnx(path: Path) -> None:
    from worldclip.model.formats.onnx_backend import open_session

    open_session(path)


def run_onnx(folder: Path, seeds: range) -> None:
    (folder / "whole").write_bytes(small_onnx())
    code = (
        "import resource, sys; from pathlib import Path; import test_fuzz_readers as fuzz\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))\n"
        f"folder = Path({str(folder)!r})\n"
        "whole = (folder / 'whole').read_bytes()\n"
        f"fuzz.read_many(folder, 'm.onnx', whole, fuzz.read_onnx, range({seeds.start}, {seeds.stop}))\n"
    )
    here = Path(__file__).parent
    path = ":".join([str(here), str(here / "helpers"), *filter(None, sys.path)])
    python("-X", "faulthandler", "-c", code, PYTHONPATH=path)


def test_damaged_onnx_models_are_refused_in_words(tmp_path):
    pytest.importorskip("onnxruntime")
    run_onnx(tmp_path, range(150))


@pytest.mark.slow
def test_many_damaged_onnx_models_are_refused_in_words(tmp_path):
    pytest.importorskip("onnxruntime")
    run_onnx(tmp_path, range(1_000, 21_000))


def test_an_onnx_model_reads_no_file_outside_of_its_folder(tmp_path):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "c.bin").write_bytes(bytes(16))
    for location, is_inside in (("c.bin", True), ("../c.bin", False), (str(tmp_path / "c.bin"), False)):
        (folder / "m.onnx").write_bytes(small_onnx(location))
        if is_inside:
            read_onnx(folder / "m.onnx")
            continue
        with pytest.raises(UserError):
            read_onnx(folder / "m.onnx")
