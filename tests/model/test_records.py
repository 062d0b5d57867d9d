"""Records of model folders that others made are read, or refused with a message; nothing else is raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_folders import load_error
from worldclip.core.errors import UserError
from worldclip.model import records, weights
from worldclip.model.formats import huggingface_folder, onnx_backend
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.formats.onnx_parts import PlainTokenizer
from worldclip.model.tokenizer import load_tokenizer

RECORDS = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json",
           "model.safetensors.index.json", "open_clip_config.json")  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("text", ["[]", "3", "nul", '{"a": NaN}', "{", "[" * 100_000])
def test_records_that_are_no_objects_are_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert str(folder) in load_error(folder)


class PanicException(BaseException):
    """Stand for what pyo3 raises for a panic in Rust."""


def test_panic_of_a_tokenizer_is_a_message(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*arguments: object, **options: object) -> None:
        raise PanicException("index out of bounds")

    tokenizer = load_tokenizer(folder, 77)
    monkeypatch.setattr(tokenizer, "hf", panic)
    with pytest.raises(UserError, match="gave up"):
        tokenizer.encode(["a"])
    monkeypatch.setattr("tokenizers.Tokenizer.from_file", panic)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panic)
    for read in (lambda: load_tokenizer(folder, 77), lambda: PlainTokenizer(folder)):
        with pytest.raises(UserError, match="gave up"):
            read()


def test_interrupt_is_no_fault_of_a_tokenizer() -> None:
    with pytest.raises(KeyboardInterrupt), records.tokenizer_faults("here"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("torch.load", lambda folder: weights.read_state(folder / "a.pt")),
        (
            "transformers.AutoConfig.from_pretrained",
            lambda folder: huggingface_folder.read_parts(folder, LoadOptions()),
        ),
        ("onnxruntime.InferenceSession", onnx_backend.open_session),
    ],
)
def test_lack_of_memory_is_no_damage_of_a_model(target, read, tmp_path, monkeypatch):
    class Fail(Exception):
        """As onnxruntime's."""

    def fail(*arguments: object, **options: object) -> None:
        raise Fail("[ONNXRuntimeError] : 1 : FAIL : Load model failed:std::bad_alloc")

    monkeypatch.setattr(target, fail)
    with pytest.raises(Fail):
        read(tmp_path)


def test_lack_of_memory_is_no_fault_of_the_records():
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 byte")):
        with pytest.raises(type(error)), records.library_faults("the folder does not load"):
            raise error
    with (
        pytest.raises(UserError, match=r"^the folder does not load \(division by zero\); copy"),
        records.library_faults("the folder does not load"),
    ):
        raise ZeroDivisionError("division by zero")
