"""Image and text encoder for onnxruntime, in the layout of the onnx-community
(model/formats/onnx_folder.py): dynamic batch and text length, float32, float16 and dynamic int8.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldclip.core.errors import UserError, require
from worldclip.export import probe
from worldclip.export.huggingface_folder import write_tokenizer_and_processor
from worldclip.model.formats import onnx_folder as onnx
from worldclip.model.load import Source, load

if TYPE_CHECKING:
    from worldclip.model.inference import Clip

OPSET = 18
MAX_FILE_BYTES = 1_500_000_000  # above, tensors stand in <name>.onnx_data: a protobuf ends at 2 GiB
MIN_COSINE = {"fp16": 0.999, "int8": 0.98}
QUANTISED_OPS = ["MatMul", "Gather"]  # Gather: the token table, most of a small model


def write(clip: Clip, folder: Path, precisions: Sequence[str]) -> None:
    config = clip.model.config
    config_file = folder / "config.json"
    config.save_pretrained(folder)
    _add_logit_scale(config_file, clip.towers.logit_scale)
    write_tokenizer_and_processor(clip, folder)
    (folder / onnx.FOLDER).mkdir()
    for tower in (onnx.IMAGE, onnx.TEXT):
        write_encoder(clip.model, tower, folder, precisions)


def _add_logit_scale(config_file: Path, logit_scale: float) -> None:
    """The factor of cosines, which the two encoders do not hold."""
    from worldclip.core.artifacts import read_json, write_json

    write_json(config_file, {**read_json(config_file), "logit_scale": logit_scale})


def write_encoder(model: Any, tower: str, folder: Path, precisions: Sequence[str]) -> None:
    """One tower in each precision; float32 is written first, the others are made from it."""
    plain = onnx.model_path(folder, tower, "fp32")
    _write_float32(model, tower, plain)
    if "fp16" in precisions:
        _write_float16(plain, onnx.model_path(folder, tower, "fp16"))
    if "int8" in precisions:
        _write_int8(plain, onnx.model_path(folder, tower, "int8"))
    if "fp32" not in precisions:
        for file in plain.parent.glob(f"{plain.name}*"):
            file.unlink()


def _write_float32(model: Any, tower: str, path: Path) -> None:
    import torch

    onnx_ir = require("onnx_ir", extra="export")
    require("onnxscript", extra="export")
    encoder, example, outputs = (_image_encoder if tower == onnx.IMAGE else _text_encoder)(model)
    batch = torch.export.Dim("batch_size")
    shapes: dict[str, Any] = {"pixel_values": {0: batch}}
    if tower == onnx.TEXT:
        length = torch.export.Dim("sequence_length", max=model.config.text_config.max_position_embeddings)
        shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # torch tells of its every step
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder.eval(),
            example,
            dynamo=True,
            input_names=list(shapes),
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    num_bytes = sum(parameter.nbytes for parameter in encoder.parameters())
    external = f"{path.name}_data" if num_bytes > MAX_FILE_BYTES else None
    onnx_ir.save(program.model, path, external_data=external)


def _image_encoder(model: Any) -> tuple[Any, tuple[Any, ...], list[str]]:
    import torch

    class ImageEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.projection = model.vision_model, model.visual_projection

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.projection(self.tower(pixel_values=pixel_values).pooler_output)

    size = model.config.vision_config.image_size
    return ImageEncoder(), (torch.zeros(2, 3, size, size),), ["image_embeds"]


def _text_encoder(model: Any) -> tuple[Any, tuple[Any, ...], list[str]]:
    import torch

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.projection = model.text_model, model.text_projection

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.projection(self.tower(input_ids=input_ids, attention_mask=attention_mask).pooler_output)

    ids = torch.full((2, 5), model.config.text_config.eos_token_id)
    return TextEncoder(), (ids, torch.ones_like(ids)), ["text_embeds"]


def _write_float16(source: Path, path: Path) -> None:
    """Weights and arithmetic in float16, inputs and outputs in float32."""
    library = require("onnx", extra="export")
    require("onnxruntime", extra="export")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are cut to float16's range: masks' -inf
        half = convert_float_to_float16(library.load(source), keep_io_types=True, disable_shape_infer=True)
    is_large = source.with_name(f"{source.name}_data").exists()
    library.save(half, path, save_as_external_data=is_large, location=f"{path.name}_data" if is_large else None)


def _write_int8(source: Path, path: Path) -> None:
    """Weights in int8, activations quantised as they come."""
    require("onnxruntime", extra="export")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    is_large = source.with_name(f"{source.name}_data").exists()
    with _only_errors():
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=QUANTISED_OPS,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=is_large,
        )


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
    """Without the library's advice, which goes to the root logger."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def compare(clip: Clip, folder: Path, precisions: Sequence[str]) -> dict[str, float]:
    """Largest difference of any element in float32, smallest cosine in the other precisions, by onnxruntime.

    Raises UserError where a cosine is too small.
    """
    labels, pixels = list(probe.LABELS), probe.pixels(clip)
    expected = {"images": clip.towers.encode_pixels(pixels), "texts": clip.encode_text(labels)}
    found: dict[str, float] = {}
    for precision in precisions:
        towers = load(Source("onnx", folder), "cpu", None, None, precision).towers
        assert clip.tokenizer is not None
        tokens = clip.tokenizer.encode(labels)
        embeds = {"images": towers.encode_pixels(pixels), "texts": towers.encode_tokens(tokens, num_chunks=len(labels))}
        if precision == "fp32":
            found[precision] = max(probe.max_difference(embeds[kind], expected[kind]) for kind in embeds)
            continue
        found[precision] = min(probe.min_cosine(embeds[kind], expected[kind]) for kind in embeds)
        if not found[precision] >= MIN_COSINE[precision]:
            raise UserError(
                f"the {precision} encoders' embeddings have a cosine of only {found[precision]:.3f} with the model's; "
                f"at least {MIN_COSINE[precision]} is asked for; leave {precision} out of onnx_precisions"
            )
    return found
