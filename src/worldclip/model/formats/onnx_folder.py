"""Encoders for onnxruntime in the layout of the onnx-community: dynamic batch and text length, three precisions.

    FOLDER/config.json, tokenizer.json, ..., preprocessor_config.json     as in the Hugging Face folder
    FOLDER/onnx/vision_model<suffix>.onnx   pixel_values (batch, 3, S, S) float32          -> image_embeds (batch, D)
    FOLDER/onnx/text_model<suffix>.onnx     input_ids, attention_mask (batch, length) int64 -> text_embeds (batch, D)
    FOLDER/onnx/model<suffix>.onnx          both in one graph, with logits (onnx_joint.py)

Embeddings of the encoders are not of unit length, as in transformers' ...WithProjection classes.  The suffix is the
precision, as transformers.js reads it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError, first_line, require
from worldclip.core.job import Record, Report
from worldclip.core.registry import Requirement
from worldclip.model import published, sample_inputs
from worldclip.model.formats.huggingface_folder import (
    read_config_json,
    read_parts,
    write_tokenizer_and_processor,
)
from worldclip.model.formats.interface import TORCH, CardFacts, LoadOptions
from worldclip.model.formats.onnx_joint import write_joint
from worldclip.model.formats.onnx_parts import are_plain, read_plain_parts
from worldclip.model.inference import Clip
from worldclip.model.tokenizer import Tokens
from worldclip.model.towers import pooled_image, pooled_text

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
OPTIONS: tuple[str, ...] = ("tokenizer", "precision")
requires = Requirement(("onnx", "onnx_ir", "onnxscript", "onnxruntime"), extra="export")
has_torch_weights, yields_to = False, ""
FOLDER = "onnx"
IMAGE, TEXT, JOINT = "vision_model", "text_model", "model"
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}  # of transformers.js, whose dtype q8 is our int8
OPSET = 18
MAX_FILE_BYTES = 1_500_000_000  # larger tensors go to <name>.onnx_data: a protobuf file is limited to 2 GiB
MIN_COSINE = {"fp16": 0.999, "int8": 0.999}  # of an exported encoder's embeddings with the model's
JOINT_SHAPES = (
    (1, 1),
    (1, 2),
    (5, 7),
    (20, 20),
    (16, 2),
)  # numbers of images and texts on which joint graphs are compared
QUANTISED_OPS = ["MatMul", "Gather"]  # Gather: the token table, which is most of a small model


def model_path(folder: Path, tower: str, precision: str) -> Path:
    """Return the file of an encoder, IMAGE or TEXT, or of both, JOINT, in fp32, fp16 or int8."""
    return folder / FOLDER / f"{tower}{SUFFIXES[precision]}.onnx"


def file_patterns(precision: str) -> list[str]:
    """Return glob patterns of the two encoders and their external data."""
    suffixes = _suffixes_of(precision)
    return [f"{FOLDER}/{tower}{suffix}.onnx*" for tower in (IMAGE, TEXT) for suffix in suffixes]


def _suffixes_of(precision: str) -> list[str]:
    """Return the suffixes of a precision's files, the first that is there counts; `_quantized` is our own int8."""
    if precision == "fp32":
        return [""]
    return ["_int8", "_quantized"] if precision == "int8" else [f"_{precision}"]


def missing(folder: Path) -> str | None:
    if _graphs(folder):
        return None
    files = sorted(path.name for place in (folder, folder / FOLDER) for path in place.glob("*.onnx"))
    if files:
        return f"{', '.join(files[:3])} without its other half: {IMAGE}*.onnx and {TEXT}*.onnx belong together"
    return f"no {IMAGE}*.onnx with {TEXT}*.onnx, and no {JOINT}*.onnx, there or in {FOLDER}"


def _graphs(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each precision by the suffix of its files: (image, text) encoders, or one joint graph.

    Encoders count before a joint graph, FOLDER/onnx before FOLDER.
    """
    graphs: dict[str, tuple[Path, ...]] = {}
    for place in (folder / FOLDER, folder):
        for image in sorted(place.glob(f"{IMAGE}*.onnx")):
            text = image.with_name(image.name.replace(IMAGE, TEXT, 1))
            if text.exists():
                graphs.setdefault(image.stem.removeprefix(IMAGE), (image, text))
    for place in (folder / FOLDER, folder):
        for joint in sorted(place.glob(f"{JOINT}*.onnx")):
            graphs.setdefault(joint.stem.removeprefix(JOINT), (joint,))
    return graphs


def _find_graphs(folder: Path, precision: str) -> tuple[Path, ...]:
    """Return the files of a precision.  Raises UserError that names the precisions that are there."""
    graphs = _graphs(folder)
    for suffix in _suffixes_of(precision):
        if suffix in graphs:
            return graphs[suffix]
    available = ", ".join("fp32" if not suffix else suffix.removeprefix("_") for suffix in graphs)
    choice = f"choose a precision: {available}" if graphs else f"both {IMAGE} and {TEXT}, or {JOINT}, are needed"
    raise UserError(f"{folder} has no {precision} graphs; {choice}")


@dataclass(frozen=True, slots=True)
class OnnxBackend:
    """Both encoders in onnxruntime: two sessions, or one of a joint graph twice."""

    image: Any
    text: Any
    config_path: Path
    stored_logit_scale: float | None
    """logit_scale of config.json or of the published model, None where it is unknown; the encoders do not hold it."""
    image_size: int
    eos_id: int

    @property
    def logit_scale(self) -> float:
        if self.stored_logit_scale is None:
            raise UserError(
                f"{self.config_path} has no logit_scale, the factor of cosines in probabilities; add it (exp of the "
                "model's own logit_scale), or use the embeddings alone"
            )
        return self.stored_logit_scale

    @property
    def embed_dim(self) -> int:
        return int(next(output.shape[1] for output in self.image.get_outputs() if output.name == "image_embeds"))

    def encode_pixels(self, pixels_B3SS: torch.Tensor | np.ndarray) -> np.ndarray:
        return _unit(self._run(self.image, "image_embeds", {"pixel_values": np.asarray(pixels_B3SS)}))

    def encode_tokens(self, tokens: Tokens, num_chunks: int) -> np.ndarray:
        features_BD = np.zeros((len(tokens), self.embed_dim), np.float32)
        for rows in tokens.chunks_by_length(num_chunks):
            ids = tokens.padded(rows)
            inputs = {"input_ids": ids, "attention_mask": _mask(tokens.lengths[rows])}
            features_BD[rows] = _unit(self._run(self.text, "text_embeds", inputs))
        return features_BD

    def _run(self, session: Any, output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return an output, with only the inputs that the session has; a joint graph gets one unused row of the others.

        Inputs take the type that the session states (int32 ids, float16 pixels).
        """
        size = self.image_size
        unused = {
            "pixel_values": np.zeros((1, 3, size, size), np.float32),
            "input_ids": np.full((1, 2), self.eos_id),
            "attention_mask": np.ones((1, 2), np.int64),
        }
        every = unused | inputs
        fed = {value.name: every[value.name].astype(_TYPES[value.type]) for value in session.get_inputs()}
        embeds: np.ndarray = session.run([output], fed)[0]
        return embeds


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def _mask(lengths_B: np.ndarray) -> np.ndarray:
    """Return (B, longest) int64: 1 for tokens, 0 for padding."""
    return (np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]).astype(np.int64)


def _unit(embeds_BD: np.ndarray) -> np.ndarray:
    embeds_BD = embeds_BD.astype(np.float32)
    unit_BD: np.ndarray = embeds_BD / np.linalg.norm(embeds_BD, axis=1, keepdims=True)
    return unit_BD


def needs(path: Path, options: LoadOptions) -> tuple[Requirement, ...]:
    """Return what reading needs: torch's packages only where tokenizer or processor are not plain files."""
    plain = Requirement(("onnxruntime", "tokenizers", "PIL"), extra="onnx")
    return (plain,) if are_plain(path, options) else (TORCH, Requirement(("onnxruntime",), extra="export"))


def hub_weights(folder: Path, hub_id: str, precision: str) -> list[str] | None:
    """Return the patterns of the weights, None where the repository is not named as onnx-community names them."""
    return file_patterns(precision) if hub_id.endswith("-ONNX") else None


def read(path: Path, options: LoadOptions) -> Clip:
    """Load the encoders of one precision, float32 by default; torch is not imported if are_plain."""
    if options.device not in ("auto", "cpu"):
        raise UserError(f"device = {options.device!r}: ONNX folders run on the CPU; use auto or cpu")
    read = read_plain_parts if are_plain(path, options) else read_parts
    config, tokenizer, processor = read(path, options)
    sessions = [open_session(file) for file in _find_graphs(path, options.precision or "fp32")]
    backend = OnnxBackend(
        sessions[0],
        sessions[-1],
        path / "config.json",
        _logit_scale(path, config),
        config.vision_config.image_size,
        tokenizer.eos_id,
    )
    return Clip(backend, tokenizer, processor)


def _logit_scale(folder: Path, config: Any) -> float | None:
    """Return the factor of cosines of config.json, else of the published weights that the folder or origin names."""
    stored = getattr(config, "logit_scale", None)
    if stored is not None:
        return float(stored)
    cached = [part.rpartition("--")[2] for part in folder.parts if part.startswith("models--")]
    origin = str(read_config_json(folder).get("_name_or_path", ""))
    for name in (origin, folder.name, *cached):
        row = published.find(name.removesuffix("-ONNX"))
        if row is not None:
            logger.warning(
                f"{folder / 'config.json'} has no logit_scale; {published.LOGIT_SCALE:g} is used, the factor of "
                f"cosines in Meta CLIP 2's README ({row.name} is one of its models)"
            )
            return published.LOGIT_SCALE
    return None


def open_session(path: Path) -> Any:
    """Return a graph in onnxruntime, on the CPU.  Raises UserError for a file that does not load."""
    onnxruntime = require("onnxruntime", extra="export")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    if "OMP_NUM_THREADS" in os.environ:  # onnxruntime has its own thread pool, which does not read the variable
        options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise UserError(f"{path} does not load in onnxruntime ({first_line(error)}); export it again") from error
    _check_batch(path, session)
    return session


def _check_batch(path: Path, session: Any) -> None:
    """Raise UserError if a graph holds the number of its rows as a constant.

    optimum-onnx 0.1 traces MetaClip2's text tower so, and the number of tokens with it: other lengths would pool at a
    wrong token.
    """
    for output in session.get_outputs():
        if output.name in ("image_embeds", "text_embeds") and isinstance(output.shape[0], int):
            raise UserError(
                f"{path} was traced for {output.shape[0]} rows of {output.name} and is wrong for others; export the "
                "model's Hugging Face folder with: worldclip export FOLDER --formats onnx"
            )


def write(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> None:
    """Write the encoders in these precisions, and config.json with logit_scale, which the encoders do not hold.

    has_joint: write the joint graphs too.
    """
    clip.model.config.save_pretrained(folder)
    config_path = folder / "config.json"
    write_json(config_path, {**read_json(config_path), "logit_scale": clip.backend.logit_scale})
    write_tokenizer_and_processor(clip, folder)
    (folder / FOLDER).mkdir()
    for tower in (IMAGE, TEXT):
        write_encoder(clip.model, tower, folder, precisions)
    for precision in precisions if has_joint else ():
        image, text, joint = (model_path(folder, name, precision) for name in (IMAGE, TEXT, JOINT))
        write_joint(image, text, joint, clip.backend.logit_scale, MAX_FILE_BYTES)


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
    import torch

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
    """Write a float32 graph with these inputs and one output; large weights go to a file beside it.

    inputs: examples by name, in the order of the encoder's arguments.  dynamic: the dimensions that are not fixed.
    """
    import torch

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
    _rename_inner(program.model.graph, output)
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # names files of this machine
    is_large = sum(parameter.nbytes for parameter in encoder.parameters()) > MAX_FILE_BYTES
    onnx_ir.save(program.model, path, external_data=_external_data(path).name if is_large else None)


def _rename_inner(graph: Any, output: str) -> None:
    """Give constants and intermediate values another name than the output's; torch names them after modules."""
    inner = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for i, value in enumerate(inner):
        if value.name == output and not value.is_graph_output():
            value.name = f"{output}_inner_{i}"


def image_encoder(model: Any) -> Any:
    """Return a module: pixels (B, 3, S, S) -> image embeddings (B, D), not normalised."""
    import torch

    class ImageEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.projection = model.vision_model, model.visual_projection

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            embeds: torch.Tensor = self.projection(pooled_image(self.tower, pixel_values))
            return embeds

    return ImageEncoder()


def text_encoder(model: Any) -> Any:
    """Return a module: ids and mask (B, L) int64 -> text embeddings (B, D), not normalised."""
    import torch

    class TextEncoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.projection = model.text_model, model.text_projection
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

    with _without_warnings():  # of numbers outside float16's range: the -inf of masks
        half = convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
    OnnxModel(half).topological_sort()  # the conversion appends the casts of the inputs at the end
    is_large = _external_data(source).exists()
    onnx.save(half, path, save_as_external_data=is_large, location=_external_data(path).name if is_large else None)


def _write_int8(source: Path, path: Path) -> None:
    """Convert weights to 8 bits, per channel; activations are quantised at run time.

    Weights are unsigned: onnxruntime's product of unsigned activations with signed weights saturates 16-bit sums on
    x86 processors without VNNI, and loses 2 to 11 times more there.
    """
    require("onnxruntime", extra="export")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _without_warnings():
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=QUANTISED_OPS,
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=_external_data(source).exists(),
        )


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


def compare(clip: Clip, folder: Path, precisions: Sequence[str], *, has_joint: bool = True) -> Report:
    """Compare in onnxruntime: the largest difference in float32, the smallest cosine in the other precisions.

    has_joint: compare the joint graphs too, on the numbers of images and texts in JOINT_SHAPES.  `joint_bytes` is their
    size; they hold small weights a second time.
    Raises UserError also for files that are not valid ONNX, which some runtimes load all the same.
    """
    tokens = clip.require_tokenizer().encode(sample_inputs.TEXTS)
    pixels = sample_inputs.pixels(clip)
    expected = (clip.backend.encode_pixels(pixels), clip.encode_text(list(sample_inputs.TEXTS)))
    checked: dict[str, float] = {}
    for precision in precisions:
        for name in (IMAGE, TEXT, JOINT) if has_joint else (IMAGE, TEXT):
            check_file(model_path(folder, name, precision))
        encoders = read(folder, LoadOptions(device="cpu", precision=precision)).backend
        embeds = (encoders.encode_pixels(pixels), encoders.encode_tokens(tokens, num_chunks=len(tokens)))
        pairs = list(zip(embeds, expected, strict=True))
        if has_joint:
            pairs += _run_joint(model_path(folder, JOINT, precision), pixels.numpy(), tokens, expected)
        if precision == "fp32":
            difference = max(sample_inputs.max_difference(*pair) for pair in pairs)
            checked[precision] = sample_inputs.require_close(difference, "onnxruntime")
            continue
        cosine = min(sample_inputs.min_cosine(*pair) for pair in pairs)
        if not cosine >= MIN_COSINE[precision]:
            raise UserError(
                f"the {precision} encoders' embeddings have a cosine of {cosine:.5f} with the model's (at least "
                f"{MIN_COSINE[precision]} is needed); leave {precision} out of onnx_precisions"
            )
        checked[precision] = cosine
    joint_bytes = sum(path.stat().st_size for path in (folder / FOLDER).glob(f"{JOINT}*"))
    return {"checked": checked, "joint_bytes": joint_bytes}


def check_file(path: Path) -> None:
    """Raise UserError for a file that is not valid ONNX."""
    onnx = require("onnx", extra="export")
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise UserError(f"{path} is not valid ONNX ({first_line(error)}); nothing was exported") from error


def _run_joint(
    path: Path, pixels_B3SS: np.ndarray, tokens: Tokens, expected: tuple[np.ndarray, np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (embeddings of the joint graph, expected ones) of images, then of texts, for each of JOINT_SHAPES.

    Samples are repeated.  Raises UserError for a shape that the graph does not run on.
    """
    session = open_session(path)
    for num_images, num_texts in JOINT_SHAPES:
        images, texts = np.arange(num_images) % len(pixels_B3SS), np.arange(num_texts) % len(tokens)
        mask = _mask(tokens.lengths[texts])
        inputs = {"pixel_values": pixels_B3SS[images], "input_ids": tokens.padded(texts), "attention_mask": mask}
        try:
            image_BD, text_BD = session.run(["image_embeds", "text_embeds"], inputs)
        except Exception as error:  # onnxruntime's errors have no common class
            raise UserError(
                f"{path} does not run on {num_images} images and {num_texts} texts ({first_line(error)}); nothing was "
                "exported. Leave its precision out of onnx_precisions"
            ) from error
        yield image_BD, expected[0][images]
        yield text_BD, expected[1][texts]


def _checked(report: Record) -> str:
    """Return what the card says of `compare`."""
    kinds = dict.fromkeys(report["checked"], "smallest cosine") | {"fp32": "largest difference"}
    measured = ", ".join(f"{key}: {kinds[key]} {value:.2g}" for key, value in report["checked"].items())
    return (
        f"in onnxruntime ({measured}); `onnx/model*.onnx`, both encoders in one graph, take "
        f"{report['joint_bytes']:,} bytes"
    )


CARD = CardFacts(
    library="transformers.js",
    use=(
        "import worldclip",
        "",
        'clip = worldclip.load("THIS FOLDER", precision="int8")',
        'clip.classify("apple.png", ["red apple", "赤いリンゴ"])',
    ),
    checked=_checked,
)
