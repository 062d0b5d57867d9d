"""Write ONNX graphs of a model's towers in float32, float16 and int8.

B batch, L length of the longest text, S image side, D embed_dim.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from worldclip.core.errors import require
from worldclip.model.formats.onnx_backend import IMAGE, model_path
from worldclip.model.towers import pooled_image, pooled_text

OPSET = 18
MAX_FILE_BYTES = 1_500_000_000  # larger tensors go to <name>.onnx_data: a protobuf file is limited to 2 GiB
QUANTISED_OPS = ["MatMul", "Gather"]  # Gather: the token table, which is most of a small model


def write_encoder(model: Any, tower: str, folder: Path, precisions: Sequence[str]) -> None:
    """Write one tower in each precision; float32 is written first, and the others are converted from it."""
    float32_path = model_path(folder, tower, "fp32")
    _write_float32(model, tower, float32_path)
    if "fp16" in precisions:
        _write_float16(float32_path, model_path(folder, tower, "fp16"))
    if "int8" in precisions:
        _write_int8(float32_path, model_path(folder, tower, "int8"))
    if "fp32" not in precisions:
        for file in float32_path.parent.glob(f"{float32_path.name}*"):
            file.unlink()


def _write_float32(model: Any, tower: str, path: Path) -> None:
    batch = torch.export.Dim("batch_size")
    if tower == IMAGE:
        size = model.config.vision_config.image_size
        pixels = {"pixel_values": torch.zeros(2, 3, size, size)}
        write_graph(image_encoder(model), pixels, "image_embeds", path, {"pixel_values": {0: batch}})
        return
    ids = torch.full((2, 5), model.config.text_config.eos_token_id)
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    length = torch.export.Dim("sequence_length", max=model.config.text_config.max_position_embeddings)
    write_graph(text_encoder(model), tokens, "text_embeds", path, {name: {0: batch, 1: length} for name in tokens})


def write_graph(
    encoder: Any, inputs: dict[str, torch.Tensor], output: str, path: Path, dynamic: dict[str, Any] | None = None
) -> None:
    """Write a float32 graph with these inputs and one output; large weights go to a second file.

    inputs: examples by name, in the order of the encoder's arguments.  dynamic: the dimensions that are not fixed.
    """
    onnx_ir = require("onnx_ir", extra="export")
    require("onnxscript", extra="export")
    with _without_warnings(), contextlib.redirect_stdout(io.StringIO()):  # torch prints its progress
        program = torch.onnx.export(
            encoder.eval(),
            tuple(inputs.values()),
            dynamo=True,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model.graph
    inner = list(graph.initializers.values())
    for node in graph:
        inner += node.outputs
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # names files of this machine
    for i, value in enumerate(inner):  # torch names constants and intermediate values after modules
        if value.name == output and not value.is_graph_output():
            value.name = f"{output}_inner_{i}"
    is_large = sum(parameter.nbytes for parameter in encoder.parameters()) > MAX_FILE_BYTES
    onnx_ir.save(program.model, path, external_data=_external_data(path).name if is_large else None)


def image_encoder(model: Any) -> torch.nn.Module:
    """Return a module: pixels (B, 3, S, S) -> image embeddings (B, D), not normalised.

    The written graph holds the class's qualified name.
    """

    class ImageEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = model.vision_model
            self.projection = model.visual_projection

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            embeds: torch.Tensor = self.projection(pooled_image(self.tower, pixel_values))
            return embeds

    return ImageEncoder()


def text_encoder(model: Any) -> torch.nn.Module:
    """Return a module: ids and mask (B, L) int64 -> text embeddings (B, D), not normalised."""

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = model.text_model
            self.projection = model.text_projection
            self.eos_id = model.config.text_config.eos_token_id

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            # transformers.js adds the end token before it truncates; without one the tower would pool position 0
            last = attention_mask.sum(dim=1, keepdim=True) - 1
            is_last = torch.arange(input_ids.shape[1]) == last
            has_eos = (input_ids == self.eos_id).any(dim=1, keepdim=True)
            ids = torch.where(is_last & ~has_eos, self.eos_id, input_ids)
            embeds: torch.Tensor = self.projection(pooled_text(self.tower, ids))
            return embeds

    return TextEncoder()


def _write_float16(source: Path, path: Path) -> None:
    """Convert weights and arithmetic to float16; inputs and outputs stay float32."""
    onnx = require("onnx", extra="export")
    require("onnxruntime", extra="export")
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _without_warnings():  # about numbers outside float16's range: the -inf of masks
        half = convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
    OnnxModel(half).topological_sort()  # the conversion appends the casts of the inputs at the end
    is_large = _external_data(source).exists()
    onnx.save(half, path, save_as_external_data=is_large, location=_external_data(path).name if is_large else None)


def _write_int8(source: Path, path: Path) -> None:
    """Convert weights to 8 bits, per channel; activations are quantised at run time.

    Weights are unsigned: onnxruntime's product of unsigned activations with signed weights saturates 16-bit sums on
    x86 processors without VNNI, and loses 2 to 11 times more there.
    """
    onnx = require("onnx", extra="export")
    require("onnxruntime", extra="export")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    is_large = _external_data(source).exists()
    with _without_warnings():
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=QUANTISED_OPS,
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=is_large,
        )
    if is_large:  # onnxruntime names the second file NAME.onnx.data, where transformers.js does not look
        graph = onnx.load(path)
        path.with_name(f"{path.name}.data").unlink()
        onnx.save(graph, path, save_as_external_data=True, location=_external_data(path).name)


def _external_data(path: Path) -> Path:
    return path.with_name(f"{path.name}_data")


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence warnings and advice; onnxruntime logs the latter to the root logger."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
