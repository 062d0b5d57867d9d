"""CLIP_benchmark takes an exported checkpoint unchanged and measures the numbers of our evaluate."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pages import blocks
from pools import encode
from programs import python
from tars import write_tar
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.stage import evaluate_model
from worldclip.export import ExportConfig, export_model

# CLIP_benchmark 1.6.2 calls float() on arrays of one element, which NumPy 2.4 refuses
AS_BEFORE_NUMPY_24 = """
import builtins, sys
import numpy
from clip_benchmark.cli import main
from clip_benchmark.metrics import zeroshot_classification
zeroshot_classification.float = lambda value: builtins.float(numpy.asarray(value).item())
sys.exit(main())
"""
CLASSES = ("red apple", "blue house", "green cat", "black dog", "white fox", "lazy bird")


def write_pictures(data: Path) -> None:
    """Write 30 pictures in CLIP_benchmark's layout."""
    (data / "test").mkdir(parents=True)
    (data / "classnames.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    (data / "zeroshot_classification_templates.txt").write_text("a photo of a {c}\na {c}", encoding="utf-8")
    (data / "test" / "nshards.txt").write_text("1")
    random = np.random.default_rng(0)
    members = []
    for i in range(30):
        height, width = random.integers(30, 90, 2)
        low = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        image = encode(Image.fromarray(low).resize((int(width), int(height))))
        members += [(f"{i:03}.png", image), (f"{i:03}.cls", str(i % len(CLASSES)).encode())]
    write_tar(data / "test" / "0.tar", members)


def test_clip_benchmark_measures_our_numbers(hugging_face, tmp_path):
    pytest.importorskip("clip_benchmark")
    pytest.importorskip("webdataset")
    write_pictures(tmp_path / "mini")
    export_model(hugging_face, tmp_path, ExportConfig(formats=("open_clip",)))
    model = tmp_path / "open_clip"
    (command,) = (block for block in blocks("docs/7_export.md") if block.startswith("clip_benchmark "))
    line = command.replace("\\\n", " ")
    for documented, here in (
        ("runs/emoji/export/open_clip", str(model)),
        ("data/cifar10", str(tmp_path / "mini")),
        ("wds/cifar10", "wds/mini"),
        ("cifar10.json", str(tmp_path / "theirs.json")),
    ):
        assert documented in line
        line = line.replace(documented, here)
    program, *words = shlex.split(line)
    assert program == "clip_benchmark"
    more = ("--no_amp", "--num_workers", "0", "--quiet", "--task", "zeroshot_classification")
    python("-c", AS_BEFORE_NUMPY_24, *words, *more, cwd=tmp_path, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    theirs = json.loads((tmp_path / "theirs.json").read_text())["metrics"]

    config = EvaluateConfig(datasets=("mini",), folders={"mini": f"webdataset:{tmp_path / 'mini'}"}, device="cpu")
    evaluate_model(model, config, tmp_path / "ours")
    (record,) = [json.loads(line) for line in (tmp_path / "ours" / "results.jsonl").read_text().splitlines()]
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert record["metrics"][name] == pytest.approx(theirs[name], abs=1e-6), name
    assert 0 < theirs["acc1"] < theirs["acc5"] < 1  # not a constant answer
