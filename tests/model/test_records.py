"""Records of model folders that others made: an object within bounds, or a message that names the file."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_folders import edit, load_error
from worldclip.core.errors import UserError
from worldclip.model import records, weights
from worldclip.model.formats import huggingface_folder, onnx_backend
from worldclip.model.formats.interface import LoadOptions
from worldclip.model.formats.onnx_parts import PlainTokenizer
from worldclip.model.tokenizer import load_tokenizer

NOT_OBJECTS = ["[]", "3", '"text"', "null", "true", "nul", '{"a": NaN}', '{"a": -Infinity}', "{", "[" * 100_000]


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json",
             "tokenizer.json", "open_clip_config.json", "adapter_config.json", "model.safetensors.index.json",
             "textual/tokenizer.json", "visual/preprocess_cfg.json"]
)  # fmt: skip
@pytest.mark.parametrize("text", NOT_OBJECTS)
def test_records_of_every_layout_are_objects_or_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    message = load_error(tmp_path)
    assert name in message
    assert "copy or download it again" in message


@pytest.mark.parametrize("key", records.OBJECTS)
@pytest.mark.parametrize("value", [[], 3, "text", True])
def test_parts_of_a_record_are_objects_or_refused(tmp_path: Path, key: str, value: Any) -> None:
    edit(tmp_path / "config.json", **{key: value})
    message = load_error(tmp_path)
    assert f"config.json: {key} is" in message
    assert "; it must be an object" in message


PROCESSOR, OPEN_CLIP = "preprocessor_config.json", "open_clip_config.json"


@pytest.mark.parametrize(
    ("name", "record", "key"),
    [
        (PROCESSOR, {"image_std": [0.0, 1.0, 1.0]}, "image_std"),
        (PROCESSOR, {"image_std": 0}, "image_std"),
        (PROCESSOR, {"image_std": [-1, 1, 1]}, "image_std"),
        (PROCESSOR, {"image_std": ["a", 1, 1]}, "image_std"),
        (PROCESSOR, {"image_mean": [1, 2]}, "image_mean"),
        (PROCESSOR, {"image_mean": "a"}, "image_mean"),
        (PROCESSOR, {"size": {"shortest_edge": 224 * 16 + 1}, "crop_size": 224}, "size"),
        (PROCESSOR, {"size": {"height": 224, "width": 10**9}}, "size"),
        (PROCESSOR, {"size": 0}, "size"),
        (PROCESSOR, {"size": {"shortest_edge": "a"}}, "size"),
        (PROCESSOR, {"crop_size": {"height": 10**6, "width": 10**6}}, "crop_size"),
        (PROCESSOR, {"rescale_factor": 0}, "rescale_factor"),
        (PROCESSOR, {"rescale_factor": "a"}, "rescale_factor"),
        (PROCESSOR, {"resample": 99}, "resample"),
        (PROCESSOR, {"resample": "bicubic"}, "resample"),
        (OPEN_CLIP, {"model_cfg": {}, "preprocess_cfg": {"std": [0, 1, 1]}}, "std"),
        (OPEN_CLIP, {"model_cfg": {"vision_cfg": {"image_size": 10**6}}}, "image_size"),
        (OPEN_CLIP, {"model_cfg": {"text_cfg": {"layers": 10**6}}}, "layers"),
        ("config.json", {"architecture": "a", "pretrained_cfg": {"std": [1, 1, 0]}}, "std"),
        ("config.json", {"architecture": "a", "model_args": {"img_size": 10**6}}, "img_size"),
        ("config.json", {"model_type": "siglip", "vision_config": {"image_size": -1}}, "image_size"),
    ],
)
def test_sizes_stay_within_bounds(tmp_path: Path, name: str, record: dict[str, Any], key: str) -> None:
    edit(tmp_path / name, **record)
    assert f"{name}: {key} is" in load_error(tmp_path)


def test_folder_of_endless_files_is_no_model_before_all_are_listed(tmp_path: Path, monkeypatch) -> None:
    def list_files(folder: Path, pattern: str) -> Iterator[Path]:
        yield from (folder / f"{number}.jpg" for number in range(2 * 10_000))
        pytest.fail("all files were listed")

    monkeypatch.setattr(Path, "rglob", list_files)
    assert load_error(tmp_path).startswith(
        f"{tmp_path} is no model: it holds 10,000 files or more; give the model's folder"
    )


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(replacement: bytes) -> str:
    return base64.b64encode((4).to_bytes(4, "little") + b"\0" * 4 + replacement + b"\0").decode()


@pytest.mark.parametrize(
    "normaliser",
    [
        replace({"String": "a"}, "a" * 1000),
        replace({"Regex": "."}, "aa" * 20),
        {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 30},
        {"type": "Prepend", "prepend": "a" * 1000},
        {"type": "Precompiled", "precompiled_charsmap": charsmap(b"a" * 1000)},
    ],
    ids=["string", "regex", "sequence", "prepend", "table"],
)
def test_normaliser_that_multiplies_text_is_refused(folder: Path, normaliser: dict[str, Any]) -> None:
    edit(folder / "tokenizer.json", normalizer=normaliser)
    # the class of XLM-R has a normaliser of its own
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    for read in (lambda: load_tokenizer(folder, 77), lambda: PlainTokenizer(folder)):
        with pytest.raises(UserError, match=r"normaliser makes a text up to .* times longer|does not load"):
            read()


def test_usual_normalisers_are_read(folder: Path) -> None:
    parts = [replace({"Regex": "\\s+"}, " "), {"type": "NFKC"}, replace({"String": "``"}, '"'), {"type": "Lowercase"}]
    sequence = {"type": "Sequence", "normalizers": [*parts, {"type": "Prepend", "prepend": "▁"}]}
    edit(folder / "tokenizer.json", normalizer=sequence)
    assert len(PlainTokenizer(folder)) == load_tokenizer(folder, 77).vocab_size


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
