"""Train the image encoder of a run on the classes themselves: the limit of what captions can teach it.

    python examples/photographs/supervised.py runs/photographs PHOTOS TEST --out runs/supervised.json

The encoder starts as that of RUN did and sees as many samples in batches of the same size, cropped and changed alike,
under the same learning rate.  In place of the texts stand learned vectors, one per class, and the loss is the softmax
over the classes.  PHOTOS/<class>/**/<image>, and TEST likewise.  OUT gets top-1 and the seconds.
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
from worldclip.train.augment import augment, crop_draws, kept_patches, random_resized_crop
from worldclip.train.config import TrainConfig
from worldclip.train.dual_encoder import DualEncoder
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


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


class Classifier(torch.nn.Module):
    """The image encoder of a CLIP, and a vector of unit length per class."""

    def __init__(self, encoder: DualEncoder, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes_CD = torch.nn.Parameter(torch.randn(num_classes, embed_dim) * embed_dim**-0.5)

    def forward(self, images_B3SS: torch.Tensor, kept_BP: torch.Tensor | None = None) -> torch.Tensor:
        """Return (B, C) logits."""
        pixels = normalise_pixels(images_B3SS, *pixel_statistics(torch.device("cpu")))
        self.encoder._kept_BP = kept_BP
        towers = self.encoder.towers
        assert towers is not None
        image_BD = towers.image_features(pixels)
        classes_CD = torch.nn.functional.normalize(self.classes_CD, dim=-1)
        return self.encoder.clip.logit_scale.exp() * image_BD @ classes_CD.T


def train(config: TrainConfig, model: Classifier, photos: Path, classes: list[str]) -> None:
    names, images, target = read_photographs(photos, classes)
    sizes = config.model.architecture()
    num_patches = (sizes.image_size // sizes.patch_size) ** 2
    batch_size = config.global_batch_size
    num_steps = round(config.samples_seen / batch_size)
    num_warmup = round(config.warmup_samples / batch_size)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2), eps=1e-6, fused=True)
    generator = np.random.default_rng(config.seed)
    order = np.empty(0, np.int64)
    started_at = time.time()
    for step in range(num_steps):
        while len(order) < batch_size:
            order = np.concatenate([order, generator.permutation(len(names))])
        rows = order[:batch_size]
        order = order[batch_size:]
        epochs = np.full(batch_size, step * batch_size // len(names))
        keys = [names[row] for row in rows]
        text_idx = np.zeros(batch_size, np.int64)
        draws = crop_draws(keys, text_idx, config.seed, epochs)
        crops = []
        for row, of_image in zip(rows.tolist(), draws, strict=True):
            crops.append(random_resized_crop(to_tensor(images[row]), of_image, config.crop_scale_min, sizes.image_size))
        kept_BP = None
        if config.patch_dropout:
            kept = kept_patches(keys, text_idx, config.seed, epochs, num_patches, config.patch_dropout)
            kept_BP = torch.from_numpy(kept)
        logits = model(augment(torch.stack(crops), draws, config.augment), kept_BP)
        loss = torch.nn.functional.cross_entropy(logits, target[torch.from_numpy(rows)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, num_warmup, config.lr)
        optimizer.step()
        assert model.encoder.towers is not None
        model.encoder.towers.renew()
        if step % 100 == 99:
            rate = (step + 1) * batch_size / (time.time() - started_at)
            print(f"step {step + 1} of {num_steps}: loss {loss.item():.3f}, {rate:.0f} samples/s", flush=True)


@torch.no_grad()
def top1(model: Classifier, test: Path, classes: list[str], image_size: int) -> float:
    """Return the share of the photographs whose class has the highest logit."""
    _, images, target = read_photographs(test, classes)
    processor = image_processor(image_size)
    num_right = 0
    for start in range(0, len(images), 500):
        resized = processor(images[start : start + 500], do_rescale=False, do_normalize=False, return_tensors="pt")
        logits = model(resized["pixel_values"].round().clamp(0, 255).to(torch.uint8))
        num_right += int((logits.argmax(dim=1) == target[start : start + 500]).sum())
    return num_right / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    config = load_recipe(options.run / "recipe.toml").train
    tokenizer = load_tokenizer(layout.tokenizer(options.run), config.model.architecture().context_length)
    clip = create_model(model_config(config.model, tokenizer), config.seed, config.model.init)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad = name.startswith(("vision_model", "visual_projection", "logit_scale"))
    encoder = DualEncoder(clip, precision="bf16", loss=config.loss)
    encoder.multiply_by_onednn()
    classes = sorted(path.name for path in options.photos.iterdir() if path.is_dir())
    model = Classifier(encoder, len(classes), config.model.architecture().embed_dim)
    started_at = time.process_time()
    train(config, model, options.photos, classes)
    cpu_s = round(time.process_time() - started_at)
    accuracy = top1(model, options.test, classes, config.model.architecture().image_size)
    record = {"run": options.run.name, "samples": config.samples_seen, "top1": accuracy, "cpu_s": cpu_s}
    options.out.write_text(json.dumps(record) + "\n", encoding="utf-8")
    print(record)


if __name__ == "__main__":
    main()
