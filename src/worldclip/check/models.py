"""Run ONNX models on a pool's images: classifiers whose scores remove pairs, and a face detector.

Scores and boxes are kept per shard, so a changed threshold of a classifier runs no model again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.check.config import ClassifierRule, FaceRule
from worldclip.check.context import CheckContext
from worldclip.contracts import layout
from worldclip.contracts.schemas import FACES, SCORES
from worldclip.core.artifacts import fingerprint, read_table, write_table, write_tables
from worldclip.core.errors import UserError, require
from worldclip.core.execute import Executor, Report, Shard, reads_input
from worldclip.core.inputs import Stamp, stamp_of
from worldclip.core.settings import to_dict
from worldclip.model.decode import BadImage, image_faults, open_image
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import read_images

IMAGES_AT_ONCE = 32  # batch size if the model leaves it open
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR, without importing Pillow

Rule = ClassifierRule | FaceRule


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A session of a model of images, and the shape of its input."""

    session: Any
    input_name: str
    has_channels_last: bool
    height: int
    width: int
    batch_size: int

    @classmethod
    def load(cls, path: str, image_px: int) -> OnnxModel:
        """Load an .onnx file; image_px: side of the input if the model leaves it open.

        Raises UserError for a file that is not an ONNX model of images.
        """
        ort = require("onnxruntime", extra="pool")
        state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="pool")
        load_errors = (
            state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NotImplemented
        )  # fmt: skip
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the executor already runs a process per core
        try:
            providers = [name for name in PROVIDERS if name in ort.get_available_providers()]
            session = ort.InferenceSession(path, options, providers=providers)
        except load_errors as error:
            raise UserError(f"{path} is not a model that onnxruntime can load ({error})") from error
        inputs = session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            shapes = [model_input.shape for model_input in inputs]
            raise UserError(f"{path} takes {shapes}; it must have one input (n, 3, h, w) or (n, h, w, 3)")
        has_channels_last = shape[1] != 3
        sides = shape[1:3] if has_channels_last else shape[2:4]
        height, width = (side if isinstance(side, int) else image_px for side in sides)
        batch_size = shape[0] if isinstance(shape[0], int) else IMAGES_AT_ONCE
        return cls(session, inputs[0].name, has_channels_last, height, width, batch_size)

    def require_outputs(self, **names: str) -> None:
        """Raise UserError for each output of a face detector that the model lacks."""
        outputs = [output.name for output in self.session.get_outputs()]
        problems = []
        for key, name in names.items():
            if name not in outputs:
                problems.append(f"faces.{key} = {name!r}: faces.path has no such output; it has {', '.join(outputs)}")
        if problems:
            raise UserError(problems)

    def preprocess(self, image: Any, rule: Rule) -> np.ndarray:
        """Return a Pillow image as input, (3, h, w) or (h, w, 3) float32: stretched to its size, normalised."""
        resized = image.convert("RGB").resize((self.width, self.height), _BILINEAR)
        rgb_YXC = np.asarray(resized, np.float32) / 255
        rgb_YXC = (rgb_YXC - np.array(rule.mean, np.float32)) / np.array(rule.std, np.float32)
        return rgb_YXC if self.has_channels_last else rgb_YXC.transpose(2, 0, 1)

    def run(self, images: Sequence[np.ndarray], outputs: Sequence[str] | None) -> list[np.ndarray]:
        """Return the outputs for at most `batch_size` images; a short batch is padded with its last image."""
        padding = [images[-1]] * (self.batch_size - len(images))
        batch = np.ascontiguousarray(np.stack([*images, *padding]))
        return [output[: len(images)] for output in self.session.run(outputs, {self.input_name: batch})]


@functools.lru_cache(maxsize=4)
def _load(path: str, image_px: int, stamp: Stamp) -> OnnxModel:
    """Load a model once per process; stamp: of its file, so that a changed one is loaded again."""
    return OnnxModel.load(path, image_px)


def run_models(context: CheckContext, shards: Sequence[Shard], executor: Executor) -> None:
    """Write scores/<name>/<shard>.parquet for each classifier and faces/<shard>.parquet for the detector."""
    config = context.config
    rules: dict[str, Rule] = {f"scores/{name}": rule for name, rule in config.classifiers.items()}
    if config.faces.path:
        rules["faces"] = config.faces
    for step, rule in rules.items():
        model = _load(rule.path, rule.image_px, stamp_of(rule.path))  # a wrong file is reported before any work
        if isinstance(rule, FaceRule):
            model.require_outputs(boxes=rule.boxes, scores=rule.scores)
        # A classifier's threshold is applied to the stored scores; a detector's decides which boxes are stored.
        others = {"path"} if isinstance(rule, FaceRule) else {"path", "above"}
        key = {
            "rule": {name: value for name, value in to_dict(rule).items() if name not in others},
            "model": fingerprint(Path(rule.path), Path(rule.path).parent),
            "key": context.pool.identity,
        }
        run = functools.partial(_run_on_shard, rule=rule, step=step, context=context)
        executor.map(run, shards, label=step, done_dir=layout.done_dir(context.folder, step), key=key)


@reads_input
def _run_on_shard(shard: Shard, *, rule: Rule, step: str, context: CheckContext) -> Report:
    keys: list[str] = []
    values: list[Any] = []
    model = _load(rule.path, rule.image_px, stamp_of(rule.path))
    for batch_keys, images in _read_batches(shard, context.pool, model, rule):
        keys += batch_keys
        values += find_faces(model, images, rule) if isinstance(rule, FaceRule) else score(model, images, rule)
    schema = FACES if isinstance(rule, FaceRule) else SCORES
    columns = [pa.array(keys, pa.string()), pa.array(values, schema.field(1).type)]
    write_table(context.table_path(step, shard), pa.table(columns, schema=schema), schema)
    return {"pairs": len(keys)}


def _read_batches(
    shard: Shard, pool: PoolConfig, model: OnnxModel, rule: Rule
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Yield batches of keys and inputs.  Undecodable images are left out: their facts remove them."""
    index, contents = read_images(shard, pool)
    keys: list[str] = []
    images: list[np.ndarray] = []
    for key, content in zip(index["key"].to_pylist(), contents, strict=True):
        try:
            with image_faults():
                pixels = model.preprocess(open_image(content), rule)
        except BadImage:
            continue
        keys.append(key)
        images.append(pixels)
        if len(images) == model.batch_size:
            yield keys, images
            keys, images = [], []
    if images:
        yield keys, images


def score(model: OnnxModel, images: list[np.ndarray], rule: ClassifierRule) -> list[float]:
    """Return the score of the rule's label for each image, rounded to float32."""
    outputs = model.run(images, None)[0].astype(np.float64).reshape(len(images), -1)
    if rule.label >= outputs.shape[1]:
        raise UserError(f"{rule.path} has {outputs.shape[1]} labels; label = {rule.label} is out of range (from 0 on)")
    if rule.activation == "softmax":
        outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs /= outputs.sum(axis=1, keepdims=True)
    elif rule.activation == "sigmoid":
        outputs = 1 / (1 + np.exp(-outputs))
    scores: list[float] = outputs[:, rule.label].astype(np.float32).tolist()
    return scores


def find_faces(model: OnnxModel, images: list[np.ndarray], rule: FaceRule) -> list[list[list[float]]]:
    """Return the boxes of each image as fractions of its sides: left, top, right, bottom.

    img2dataset calls this the `albumentations` format.
    """
    boxes, scores = model.run(images, [rule.boxes, rule.scores])
    if rule.units == "pixels":
        boxes = boxes / np.array([model.width, model.height, model.width, model.height], np.float32)
    scores = scores[..., -1] if scores.ndim == 3 else scores
    return [
        np.clip(image_boxes[keep_best(image_boxes, image_scores, rule)], 0, 1).tolist()
        for image_boxes, image_scores in zip(boxes, scores, strict=True)
    ]


def keep_best(boxes: np.ndarray, scores: np.ndarray, rule: FaceRule) -> list[int]:
    """Return the positions of the boxes above the threshold, best first, after non-maximum suppression."""
    kept: list[int] = []
    for position in np.argsort(-scores, kind="stable"):
        if scores[position] <= rule.above:
            break
        if all(overlap(boxes[position], boxes[better]) <= rule.max_overlap for better in kept):
            kept.append(int(position))
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    intersection = float(np.prod(np.maximum(sides, 0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - intersection
    return intersection / union if union > 0 else 0.0


def write_faces(context: CheckContext, shards: Sequence[Shard]) -> None:
    """Write faces.parquet: key and face_bboxes of every image with a face, for img2dataset's --bbox_col face_bboxes."""

    def tables() -> Iterator[pa.Table]:
        for shard in shards:
            table = read_table(context.table_path("faces", shard), FACES)
            yield table.filter(pc.greater(pc.list_value_length(table["face_bboxes"]), 0))

    write_tables(context.folder / "faces.parquet", tables(), FACES)
