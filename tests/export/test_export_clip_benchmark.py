"""CLIP_benchmark takes an exported checkpoint unchanged and measures the numbers of our evaluate."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pools import encode
from programs import python
from small_models import save_hugging_face
from tars import write_tar
from worldclip.evaluate.config import EvaluateConfig
from worldclip.evaluate.stage import evaluate_model
from worldclip.export import ExportConfig, export_model
from worldclip.model import published

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


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Write an exported model of random weights, and 30 pictures in CLIP_benchmark's layout."""
    root = tmp_path_factory.mktemp("clip_benchmark")
    save_hugging_face(published.find("metaclip-2-worldwide-b32"), root / "source")
    export_model(root / "source", root / "exports", ExportConfig(formats=("open_clip",)))
    data = root / "mini"
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
    return root


def test_clip_benchmark_measures_our_numbers(place):
    pytest.importorskip("clip_benchmark")
    pytest.importorskip("webdataset")
    model = place / "exports" / "open_clip"
    page = (Path(__file__).parents[2] / "docs" / "7_export.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^```bash\n(clip_benchmark .*?)^```", page, re.M | re.S)
    line = command.replace("\\\n", " ")
    for documented, here in (
        ("runs/emoji/export/open_clip", str(model)),
        ("data/cifar10", str(place / "mini")),
        ("wds/cifar10", "wds/mini"),
        ("cifar10.json", str(place / "theirs.json")),
    ):
        assert documented in line
        line = line.replace(documented, here)
    program, *words = shlex.split(line)
    assert program == "clip_benchmark"
    more = ("--no_amp", "--num_workers", "0", "--quiet", "--task", "zeroshot_classification")
    python("-c", AS_BEFORE_NUMPY_24, *words, *more, cwd=place, HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    theirs = json.loads((place / "theirs.json").read_text())["metrics"]

    config = EvaluateConfig(datasets=("mini",), folders={"mini": f"webdataset:{place / 'mini'}"}, device="cpu")
    evaluate_model(model, config, place / "ours")
    (record,) = [json.loads(line) for line in (place / "ours" / "results.jsonl").read_text().splitlines()]
    for name in ("acc1", "acc5", "mean_per_class_recall"):
        assert record["metrics"][name] == pytest.approx(theirs[name], abs=1e-6), name
    assert 0 < theirs["acc1"] < theirs["acc5"] < 1  # not a constant answer
