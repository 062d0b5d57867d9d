"""Models of images, on tiny ONNX graphs: the mean of red as a score, constant boxes."""

from __future__ import annotations

import io
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pools import check_pool, pair, read_tar, removals
from tars import write_tar
from toy import encode_png
from worldclip.check.config import FaceRule
from worldclip.check.models import keep_best, overlap
from worldclip.core.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402


def save(
    path: Path, nodes: list[Any], shape: list[Any], outputs: dict[str, list[Any]], constants: dict[str, np.ndarray]
) -> str:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name, sides in outputs.items()],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def mean_of_colours(path: Path, shape: list[Any]) -> str:
    """Save a model with output (n, 3): the means of red, green and blue."""
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [helper.make_node("ReduceMean", ["image"], ["scores"], axes=axes, keepdims=0)]
    return save(path, nodes, shape, {"scores": [shape[0], 3]}, {})


def face_detector(path: Path, boxes: list[list[float]], scores: list[list[float]]) -> str:
    """Save a model with the same boxes for every image, in a batch of one; scores are 0 except in red images."""
    constants = {"box_table": np.array([boxes], np.float32), "score_table": np.array([scores], np.float32)}
    nodes = [
        helper.make_node("Identity", ["box_table"], ["boxes"]),
        helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Split", ["means"], ["red", "green", "blue"], axis=1),
        helper.make_node("Mul", ["score_table", "red"], ["scores"]),
    ]
    sizes = {"boxes": [1, len(boxes), 4], "scores": [1, len(scores), len(scores[0])]}
    return save(path, nodes, [1, 3, 16, 16], sizes, constants)


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "dark": (60, 10, 10)}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    members = []
    for name, rgb in COLOURS.items():
        pixels = np.full((40, 60, 3), rgb, np.uint8)
        pixels[::2, ::2] = 0  # something to blur
        members += pair(name, encode_png(pixels), name)
    members += pair("broken", members[0][1][:50], "broken")
    write_tar(tmp_path / "pool" / "0.tar", members)
    return tmp_path


def run(folder: Path, **config: Any) -> dict[str, str]:
    check_pool(folder, duplicates="keep", **config)
    return {key: rule for key, (rule, *_) in removals(folder / "out").items()}


@pytest.mark.parametrize("shape", [["n", 3, 8, 8], ["n", 8, 8, 3], [2, 3, "h", "w"], [1, 3, 16, 16]])
def test_classifier_removes_pairs_that_score_above_its_threshold(pool: Path, shape: list[Any]) -> None:
    path = mean_of_colours(pool / "red.onnx", shape)
    removed = run(pool, classifiers={"red": {"path": path, "label": 0, "above": 0.5, "image_px": 20}})
    assert removed == {"red": "classifier:red", "broken": "undecodable"}


def test_input_is_normalised_and_activation_is_applied_to_scores(pool: Path) -> None:
    path = mean_of_colours(pool / "m.onnx", ["n", 3, 8, 8])
    rule = {"path": path, "label": 0, "above": 0.5, "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]}
    assert run(pool, classifiers={"m": {**rule, "activation": "sigmoid"}})["red"] == "classifier:m"
    scores = pq.read_table(pool / "out" / "scores" / "m" / "0.tar.parquet").to_pydict()
    by_key = dict(zip(scores["key"], scores["score"], strict=True))
    assert by_key["green"] == pytest.approx(1 / (1 + np.exp(5)), rel=1e-3)
    assert run(pool, classifiers={"m": {**rule, "activation": "softmax"}})["dark"] == "classifier:m"


def test_changed_threshold_runs_no_model_again(pool: Path) -> None:
    path = mean_of_colours(pool / "m.onnx", ["n", 3, 8, 8])
    run(pool, classifiers={"m": {"path": path, "above": 0.5}})
    written_at = (pool / "out" / "scores" / "m" / "0.tar.parquet").stat().st_mtime_ns
    assert run(pool, classifiers={"m": {"path": path, "above": 0.1}})["dark"] == "classifier:m"
    assert (pool / "out" / "scores" / "m" / "0.tar.parquet").stat().st_mtime_ns == written_at


def test_changed_normalisation_runs_the_model_again(pool: Path) -> None:
    """The fields of a rule that its class inherits decide the scores as well."""
    rule = {"path": mean_of_colours(pool / "m.onnx", ["n", 3, 8, 8]), "above": 0.5}
    assert run(pool, classifiers={"m": rule})["red"] == "classifier:m"
    assert "red" not in run(pool, classifiers={"m": rule | {"mean": [0.9, 0.0, 0.0]}})


def test_faces_are_listed_as_fractions_and_blurred_in_written_tars(pool: Path) -> None:
    path = face_detector(pool / "f.onnx", [[4, 4, 8, 8], [4.2, 4, 8, 8], [0, 0, 2, 2]], [[0, 2.0], [0, 1.9], [0, 0.1]])
    run(pool, faces={"path": path, "units": "pixels", "above": 0.4}, write="tars")
    faces = pq.read_table(pool / "out" / "faces.parquet").to_pylist()
    assert faces == [{"key": "red", "face_bboxes": [[0.25, 0.25, 0.5, 0.5]]}]
    before, after = (pixels_of(folder / "0.tar", "red.png") for folder in (pool / "pool", pool / "out" / "pairs"))
    assert (after[28:] == before[28:]).all(), "pixels outside of faces are unchanged"
    assert after[12:18, 18:28, 0].std() < before[12:18, 18:28, 0].std() / 2, "the face is blurred"
    same = (pixels_of(folder / "0.tar", "green.png") for folder in (pool / "pool", pool / "out" / "pairs"))
    assert (next(same) == next(same)).all()


def section_of_page(title: str) -> list[str]:
    """Return the indented blocks of a section of docs/pool_check.md, without their indentation."""
    page = (Path(__file__).parents[2] / "docs" / "pool_check.md").read_text(encoding="utf-8")
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in blocks if block.strip()]


def test_the_models_that_the_page_names_run_by_its_lines(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of the same architecture, labels, inputs and outputs, with weights of the test."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    export, rules = section_of_page("Models of images that you can get")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=224, patch_size=112, num_labels=2, **sizes)
    )
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.0, 2.0]))  # softmax 0.88 for the label nsfw
    model.save_pretrained(pool / "vit")
    monkeypatch.chdir(pool)
    exec(export.replace("Falconsai/nsfw_image_detection", str(pool / "vit")), {})
    boxes, scores = np.zeros((1, 4420, 4), np.float32), np.zeros((1, 4420, 2), np.float32)
    boxes[0, 7], scores[0, 7] = [0.25, 0.25, 0.5, 0.5], [0.1, 0.9]
    nodes = [
        helper.make_node("Identity", ["box_table"], ["boxes"]),
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),  # reads the input
        helper.make_node("Add", ["score_table", "nothing"], ["scores"]),
    ]
    save(
        pool / "version-RFB-320.onnx",
        nodes,
        [1, 3, 240, 320],
        {"scores": [1, 4420, 2], "boxes": [1, 4420, 4]},
        {"box_table": boxes, "score_table": scores, "zero": np.zeros(1, np.float32)},
    )
    assert run(pool, **tomllib.loads(rules)) == dict.fromkeys(COLOURS, "classifier:nsfw") | {"broken": "undecodable"}
    tolerant = tomllib.loads(rules.replace("label = 1", "label = 0"))
    assert run(pool, **tolerant) == {"broken": "undecodable"}
    faces = pq.read_table(pool / "out" / "faces.parquet").to_pylist()
    assert faces == [{"key": name, "face_bboxes": [[0.25, 0.25, 0.5, 0.5]]} for name in COLOURS]


def pixels_of(tar_path: Path, name: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(read_tar(tar_path)[name])).convert("RGB")).astype(float)


def test_best_of_overlapping_boxes_is_kept() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1.9], [3, 3, 4, 4], [0, 0, 9, 9]], np.float32)
    scores = np.array([0.8, 0.9, 0.75, 0.1], np.float32)
    assert keep_best(boxes, scores, FaceRule(above=0.5)) == [1, 2]
    assert overlap(boxes[0], boxes[0]) == 1
    assert overlap(boxes[0], boxes[2]) == 0
    assert overlap(np.array([0, 0, 2, 2.0]), np.array([1, 0, 3, 2.0])) == pytest.approx(1 / 3)


def test_invalid_model_file_is_reported_before_any_work(pool: Path) -> None:
    (pool / "no.onnx").write_bytes(b"not a model")
    with pytest.raises(UserError, match=r"no\.onnx is not a model"):
        run(pool, classifiers={"x": {"path": str(pool / "no.onnx")}})
    flat = save(pool / "flat.onnx", [helper.make_node("Identity", ["image"], ["out"])], [1, 3], {"out": [1, 3]}, {})
    with pytest.raises(UserError, match="one input"):
        run(pool, classifiers={"x": {"path": flat}})
    with pytest.raises(UserError) as caught:
        run(pool, faces={"path": face_detector(pool / "f.onnx", [[4, 4, 8, 8]], [[0, 2.0]]), "boxes": "rectangles"})
    assert caught.value.problems == ["faces.boxes = 'rectangles': faces.path has no such output; it has boxes, scores"]
