"""Train the image encoder of a run on the classes themselves: the limit of what captions can teach it.

    python examples/photographs/supervised.py runs/photographs PHOTOS TEST --out runs/supervised.json

The encoder starts as that of RUN did and sees as many samples in batches of the same size, cropped and changed alike,
under the same learning rate, and every patch of them.  In place of the texts stand learned vectors, one per class, and
the loss is the softmax over the classes.  PHOTOS/<class>/**/<image>, and TEST likewise.  OUT gets samples, CPU
seconds, and which photographs of TEST are right.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from worldclip.config import load_recipe
from worldclip.contracts import layout
from worldclip.core.image_names import SUFFIXES
from worldclip.model.clip import create_model, image_processor, model_config, normalise_pixels, pixel_statistics
from worldclip.model.tokenizer import load_tokenizer
from worldclip.train.augment import augment, crop_draws, random_resized_crop
from worldclip.train.config import TrainConfig
from worldclip.train.cpu_towers import Towers
from worldclip.train.schedule import learning_rate


def read_photographs(folder: Path, classes: list[str]) -> tuple[list[str], list[Image.Image], torch.Tensor]:
    """Return names, images and the position of each one's class."""
    names = []
    images = []
    target = []
    for position, class_name in enumerate(classes):
        for path in sorted((folder / class_name).rglob("*")):
            if path.suffix.lower() in SUFFIXES:
                names.append(path.relative_to(folder).as_posix())
                with Image.open(path) as image:
                    images.append(image.convert("RGB"))
                target.append(position)
    return names, images, torch.tensor(target)


class Classifier(torch.nn.Module):
    """The image encoder of a CLIP, in bfloat16 on a CPU, and a vector per class."""

    def __init__(self, config: TrainConfig, run_dir: Path, num_classes: int) -> None:
        super().__init__()
        sizes = config.model.architecture()
        tokenizer = load_tokenizer(layout.tokenizer(run_dir), sizes.context_length)
        self.clip = create_model(model_config(config.model, tokenizer), config.seed, config.model.init)
        for name, parameter in self.clip.named_parameters():
            parameter.requires_grad = name.startswith(("vision_model", "visual_projection", "logit_scale"))
        self.towers = Towers(self.clip, torch.bfloat16)
        self.classes_CD = torch.nn.Parameter(torch.randn(num_classes, sizes.embed_dim) * sizes.embed_dim**-0.5)

    def forward(self, images_B3SS: torch.Tensor) -> torch.Tensor:
        """Return (B, C) logits."""
        pixels = normalise_pixels(images_B3SS, *pixel_statistics(torch.device("cpu")))
        classes_CD = torch.nn.functional.normalize(self.classes_CD, dim=-1)
        return self.clip.logit_scale.exp() * self.towers.image_features(pixels) @ classes_CD.T


def train(config: TrainConfig, model: Classifier, photos: Path, classes: list[str]) -> None:
    names, images, target = read_photographs(photos, classes)
    image_size = config.model.architecture().image_size
    batch_size = config.global_batch_size
    num_steps = round(config.samples_seen / batch_size)
    num_warmup = round(config.warmup_samples / batch_size)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2), eps=1e-6, fused=True)
    generator = np.random.default_rng(config.seed)
    order = np.empty(0, np.int64)
    for step in range(num_steps):
        while len(order) < batch_size:
            order = np.concatenate([order, generator.permutation(len(names))])
        rows = order[:batch_size]
        order = order[batch_size:]
        epochs = np.full(batch_size, step * batch_size // len(names))
        draws = crop_draws([names[row] for row in rows], np.zeros(batch_size, np.int64), config.seed, epochs)
        crops = []
        for row, of_image in zip(rows.tolist(), draws, strict=True):
            pixels_3HW = torch.from_numpy(np.array(images[row])).permute(2, 0, 1)
            crops.append(random_resized_crop(pixels_3HW, of_image, config.crop_scale_min, image_size))
        logits = model(augment(torch.stack(crops), draws, config.augment))
        loss = torch.nn.functional.cross_entropy(logits, target[torch.from_numpy(rows)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, num_warmup, config.lr)
        optimizer.step()
        model.towers.renew()
        if step % 100 == 99:
            print(f"step {step + 1} of {num_steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def find_right(model: Classifier, test: Path, classes: list[str], image_size: int) -> np.ndarray:
    """Return (N,) bool: whether the class of a photograph has the highest logit."""
    _, images, target = read_photographs(test, classes)
    processor = image_processor(image_size)
    right = []
    for start in range(0, len(images), 500):
        resized = processor(images[start : start + 500], do_rescale=False, do_normalize=False, return_tensors="pt")
        logits = model(resized["pixel_values"].round().clamp(0, 255).to(torch.uint8))
        right.append((logits.argmax(dim=1) == target[start : start + 500]).numpy())
    return np.concatenate(right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = load_recipe(options.run / "recipe.toml").train
    classes = sorted(path.name for path in options.photos.iterdir() if path.is_dir())
    torch.manual_seed(config.seed)
    model = Classifier(config, options.run, len(classes))
    started_at = time.process_time()
    train(config, model, options.photos, classes)
    cpu_s = round(time.process_time() - started_at)
    right = find_right(model, options.test, classes, config.model.architecture().image_size)
    record = {"samples": config.samples_seen, "cpu_s": cpu_s, "right": right.tolist()}
    options.out.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(f"top-1 {right.mean():.1%} of {len(right):,} photographs, {cpu_s:,} CPU seconds")


if __name__ == "__main__":
    main()
