"""Join both ONNX encoders into one graph, which transformers.js' zero-shot-image-classification loads.

    input_ids, attention_mask (text_batch_size, sequence_length) int64, pixel_values (batch_size, 3, S, S) float32
    -> logits_per_image (images, texts), logits_per_text (texts, images), text_embeds, image_embeds of unit length

Weights that the encoders keep in files of their own (above 1.5 GB) are shared with them; others are written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worldclip.core.errors import require

# The graph behind the encoders, in ONNX's text format; {dim} is embed_dim, {scale} the factor of cosines
_HEAD = """similarity (float[batch_size, {dim}] image_rows, float[text_batch_size, {dim}] text_rows) => (
    float[batch_size, text_batch_size] logits_per_image, float[text_batch_size, batch_size] logits_per_text,
    float[text_batch_size, {dim}] text_embeds, float[batch_size, {dim}] image_embeds
) {{
    axis = Constant <value_ints = [-1]> ()
    image_norm = ReduceL2 <keepdims = 1> (image_rows, axis)
    image_embeds = Div (image_rows, image_norm)
    text_norm = ReduceL2 <keepdims = 1> (text_rows, axis)
    text_embeds = Div (text_rows, text_norm)
    transposed = Transpose <perm = [1, 0]> (image_embeds)
    cosines = MatMul (text_embeds, transposed)
    scale = Constant <value_float = {scale}> ()
    logits_per_text = Mul (cosines, scale)
    logits_per_image = Transpose <perm = [1, 0]> (logits_per_text)
}}
"""


def write_joint(image_path: Path, text_path: Path, path: Path, logit_scale: float, max_bytes: int) -> None:
    """Write the joint graph of two encoders into their folder.

    logit_scale: the factor of cosines.  Embedded weights of more than max_bytes go to <name>.onnx_data.
    """
    onnx = require("onnx", extra="export")
    image = onnx.load(image_path, load_external_data=False)
    text = onnx.load(text_path, load_external_data=False)
    rename_dimensions(text, {"batch_size": "text_batch_size", "sequence_length": "sequence_length"})
    image = onnx.compose.add_prefix(image, "image_", rename_inputs=False, rename_outputs=False)
    text = onnx.compose.add_prefix(text, "text_", rename_inputs=False, rename_outputs=False)
    _rename_output(image, "image_embeds", "image_rows")
    _rename_output(text, "text_embeds", "text_rows")
    opsets = {entry.domain: entry.version for entry in [*image.opset_import, *text.opset_import]}
    dim = image.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    head = onnx.parser.parse_graph(_HEAD.format(dim=dim, scale=repr(float(logit_scale))))
    names = [("image_rows", "image_rows"), ("text_rows", "text_rows")]
    # merge_models would check the graph in memory, which fails for weights above 2 GiB
    towers = onnx.compose.merge_graphs(image.graph, text.graph, io_map=[])
    joint = onnx.helper.make_model(
        onnx.compose.merge_graphs(towers, head, io_map=names, name="clip"),
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=image.ir_version,
    )
    is_large = joint.ByteSize() > max_bytes
    location = f"{path.name}_data" if is_large else None
    onnx.save(joint, path, save_as_external_data=is_large, location=location)


def rename_dimensions(text: Any, names: Mapping[str, str]) -> None:
    """Rename every symbolic dimension of the text encoder as `names` says; all others begin with `text_` then.

    Runtimes take equal names for equal sizes.  Both encoders have a batch_size, and unknown dimensions are numbered
    alike in each graph (unk__19, by the shape inference of quantisation).
    """
    graph = text.graph
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, f"text_{dimension.dim_param}")


def _rename_output(model: Any, before: str, after: str) -> None:
    """Rename an output of the graph and of the node that computes it."""
    names = {before: after}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in model.graph.output:
        value.name = names.get(value.name, value.name)
