"""Models as plug-ins by path: ONNX image classifiers whose scores remove pairs, and a face detector.

Scores and boxes are kept by shard, so another threshold runs no model again.
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

from worldclip.check.config import CheckConfig, ClassifierRule, FaceRule
from worldclip.check.hashing import UNDECODABLE, open_image
from worldclip.check.write import write_rows
from worldclip.core.artifacts import FACES, SCORES, fingerprint, read_table, write_table
from worldclip.core.errors import UserError, require
from worldclip.core.execute import Executor, Report, Shard
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import read_images

IMAGES_AT_ONCE = 32  # images in a batch, where the model leaves the batch open

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")

Rule = ClassifierRule | FaceRule


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """A model of images, and how it wants them."""

    session: Any
    input_name: str
    has_channels_last: bool
    height: int
    width: int
    batch: int

    @classmethod
    def load(cls, path: str, image_px: int) -> OnnxModel:
        """Raises UserError for a file that is no ONNX model of images."""
        ort = require("onnxruntime", extra="pool")
        options = ort.SessionOptions()
        state = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="pool")
        refusals = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NotImplemented)
        options.intra_op_num_threads = 1  # the executor's processes are the threads
        try:
            providers = [name for name in PROVIDERS if name in ort.get_available_providers()]
            session = ort.InferenceSession(path, options, providers=providers)
        except refusals as error:
            raise UserError(f"{path} is no model that onnxruntime can load ({error})") from error
        inputs = session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]):
            raise UserError(
                f"{path} takes {[one.shape for one in inputs]}; one input (n, 3, h, w) or (n, h, w, 3) is needed"
            )
        channels_last = shape[1] != 3
        height, width = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
        sides = [side if isinstance(side, int) else image_px for side in (height, width)]
        batch = shape[0] if isinstance(shape[0], int) else IMAGES_AT_ONCE
        return cls(session, inputs[0].name, channels_last, sides[0], sides[1], batch)

    def pixels(self, image: Any, rule: Rule) -> np.ndarray:
        """The input's (3, h, w) or (h, w, 3) float32: stretched to its size, bilinear."""
        resized = image.convert("RGB").resize((self.width, self.height), _BILINEAR)
        rgb_YXC = np.asarray(resized, np.float32) / 255
        rgb_YXC = (rgb_YXC - np.array(rule.mean, np.float32)) / np.array(rule.std, np.float32)
        return rgb_YXC if self.has_channels_last else rgb_YXC.transpose(2, 0, 1)

    def run(self, images: Sequence[np.ndarray], outputs: Sequence[str] | None) -> list[np.ndarray]:
        """Outputs for a batch; a model of a fixed batch gets it filled up."""
        batch = np.stack(images)
        missing = self.batch - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        return [out[: len(batch)] for out in self.session.run(outputs, {self.input_name: np.ascontiguousarray(filled)})]


_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR


def run_models(
    config: CheckConfig, pool: PoolConfig, folder: Path, shards: Sequence[Shard], executor: Executor
) -> None:
    """scores/<name>/<shard>.parquet of each classifier and faces/<shard>.parquet of the detector."""
    rules: dict[str, Rule] = {f"scores/{name}": rule for name, rule in config.classifiers.items()}
    if config.faces.path:
        rules["faces"] = config.faces
    for place, rule in rules.items():
        _load(rule.path, rule.image_px)  # a wrong file is told before any work
        decides = {name: getattr(rule, name) for name in rule.__slots__ if not _is_threshold(name, rule)}
        key = {"rule": decides, "model": fingerprint(Path(rule.path), Path(rule.path).parent), "key": pool.key}
        work = functools.partial(_run_on_shard, rule=rule, place=place, pool=pool, folder=folder)
        executor.map(work, shards, label=place, done_dir=folder / "done" / place, key=key)


def _is_threshold(name: str, rule: Rule) -> bool:
    return name == "above" and isinstance(rule, ClassifierRule)


def _run_on_shard(shard: Shard, *, rule: Rule, place: str, pool: PoolConfig, folder: Path) -> Report:
    keys: list[str] = []
    found: list[Any] = []
    model = _load(rule.path, rule.image_px)
    for names, images in _decoded(shard, pool, model, rule):
        keys += names
        if isinstance(rule, FaceRule):
            found += _faces(model, images, rule)
        else:
            found += _scores(model, images, rule).tolist()
    path = folder / place / f"{shard.name}.parquet"
    if isinstance(rule, FaceRule):
        boxes = pa.array(found, FACES.field("face_bboxes").type)
        write_table(path, pa.table({"key": pa.array(keys, pa.string()), "face_bboxes": boxes}), FACES)
    else:
        write_table(
            path, pa.table({"key": pa.array(keys, pa.string()), "score": pa.array(found, pa.float32())}), SCORES
        )
    return {"pairs": len(keys)}


def _decoded(
    shard: Shard, pool: PoolConfig, model: OnnxModel, rule: Rule
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Batches of keys and inputs; what cannot be decoded is left out here and removed by the facts of its image."""
    index, contents = read_images(shard, pool)
    keys: list[str] = []
    images: list[np.ndarray] = []
    for key, content in zip(index["key"].to_pylist(), contents, strict=True):
        try:
            pixels = model.pixels(open_image(content), rule)
        except UNDECODABLE:
            continue
        keys.append(key)
        images.append(pixels)
        if len(images) == model.batch:
            yield keys, images
            keys, images = [], []
    if images:
        yield keys, images


def _scores(model: OnnxModel, images: list[np.ndarray], rule: ClassifierRule) -> np.ndarray:
    """(n,) float32 score of the rule's label."""
    out = model.run(images, None)[0].astype(np.float64).reshape(len(images), -1)
    if rule.label >= out.shape[1]:
        raise UserError(f"{rule.path} has {out.shape[1]} labels; label {rule.label} is none of them (from 0 on)")
    if rule.activation == "softmax":
        out = np.exp(out - out.max(axis=1, keepdims=True))
        out /= out.sum(axis=1, keepdims=True)
    elif rule.activation == "sigmoid":
        out = 1 / (1 + np.exp(-out))
    return out[:, rule.label].astype(np.float32)


def _faces(model: OnnxModel, images: list[np.ndarray], rule: FaceRule) -> list[list[list[float]]]:
    """Boxes of each image as shares of its sides: left, top, right, bottom (img2dataset's `albumentations` form)."""
    boxes, scores = model.run(images, [rule.boxes, rule.scores])
    if rule.units == "pixels":
        boxes = boxes / np.array([model.width, model.height, model.width, model.height], np.float32)
    scores = scores[..., -1] if scores.ndim == 3 else scores
    return [np.clip(box[keep_best(box, score, rule)], 0, 1).tolist() for box, score in zip(boxes, scores, strict=True)]


def keep_best(boxes: np.ndarray, scores: np.ndarray, rule: FaceRule) -> list[int]:
    """Positions of the boxes above the threshold, best first, without those that overlap a better one too much."""
    kept: list[int] = []
    for at in np.argsort(-scores, kind="stable"):
        if scores[at] <= rule.above:
            break
        if all(overlap(boxes[at], boxes[other]) <= rule.max_overlap for other in kept):
            kept.append(int(at))
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    either = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / either if either > 0 else 0.0


@functools.cache
def _load(path: str, image_px: int) -> OnnxModel:
    return OnnxModel.load(path, image_px)


def write_faces(folder: Path, shards: Sequence[Shard]) -> None:
    """faces.parquet: key and face_bboxes of every image with a face, for img2dataset's --bbox_col face_bboxes."""
    tables = (read_table(folder / "faces" / f"{shard.name}.parquet", FACES) for shard in shards)
    write_rows(
        folder / "faces.parquet",
        FACES,
        (table.filter(pc.greater(pc.list_value_length(table["face_bboxes"]), 0)) for table in tables),
    )
