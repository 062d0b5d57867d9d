"""How long a training takes on this machine, before it starts: a few blocks of each tower are timed."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta

from worldclip.model.clip import TextChunks, build_config, create_model, pick_device
from worldclip.model.published import PublishedTokenizer
from worldclip.train.budget import flops_per_pair
from worldclip.train.config import TrainConfig
from worldclip.train.schedule import Schedule

MAX_PAIRS = 64
MAX_FLOPS = 5e10  # of a pass: half a second on two slow cores
BLOCKS = 2
REPEATS = 3
NUM_TOKENS = 256


def to_line(config: TrainConfig, schedule: Schedule, world_size: int) -> str:
    """Return the line of --dry-run about time.  config.precision is settled; torch is needed."""
    rate = pairs_per_second(config) * world_size
    seconds = schedule.num_steps * schedule.global_batch_size / rate
    duration = f"{seconds / 60:,.0f} minutes"
    if seconds > timedelta(hours=3).total_seconds():
        duration = f"{seconds / 3_600:,.0f} hours"
    if seconds > timedelta(days=3).total_seconds():
        duration = f"{seconds / 86_400:,.0f} days"
    processes = "" if world_size == 1 else f" of {world_size:,} processes like this one"
    return (
        f"time        about {duration}, at {rate:,.3g} pairs/s{processes}: blocks of the towers, timed on this machine"
    )


def pairs_per_second(config: TrainConfig) -> float:
    """Return the pairs of a process per second, by the rate of FLOPs of towers of two blocks: forward and backward.

    The fastest of three passes counts.  Texts are taken as half as long as the context: captions are short, and are
    not padded.  Images are not read, and the optimizer does not step.
    """
    import torch

    from worldclip.model.tokenizer import Tokens
    from worldclip.train.dual_encoder import DualEncoder

    sizes = config.model.architecture()
    small = dataclasses.replace(
        sizes, vision_layers=min(BLOCKS, sizes.vision_layers), text_layers=min(BLOCKS, sizes.text_layers)
    )
    tokenizer = PublishedTokenizer("", NUM_TOKENS, bos_id=0, pad_id=1, eos_id=2)
    device = pick_device(config.device)
    clip = create_model(build_config(small, "gelu", tokenizer), seed=0)
    encoder = DualEncoder(clip, precision=config.precision, loss=config.loss)
    encoder.to(device)
    if device.type == "cpu":
        encoder.multiply_by_onednn()
    text_length = max(2, sizes.context_length // 2)
    flops = flops_per_pair(small, text_length, config.patches_seen)
    num_pairs = max(1, min(MAX_PAIRS, int(MAX_FLOPS / flops)))
    pixels = torch.zeros(num_pairs, 3, sizes.image_size, sizes.image_size, dtype=torch.uint8)
    text = [0] * (text_length - 1) + [tokenizer.eos_id]
    tokens = Tokens.of([text] * num_pairs, tokenizer.pad_id)
    texts = tokens if device.type == "cpu" else TextChunks.of(tokens, 1)
    kept_BP = torch.arange(config.patches_seen).expand(num_pairs, -1)
    fastest = float("inf")
    for _ in range(REPEATS):
        started_at = time.perf_counter()
        image_BD, text_BD = encoder(pixels, texts, kept_BP)
        total = image_BD.sum() + text_BD.sum()
        total.backward()
        clip.logit_scale.cpu()  # waits for a GPU
        fastest = min(fastest, time.perf_counter() - started_at)
    flops_per_second = num_pairs * flops / fastest
    return flops_per_second / flops_per_pair(sizes, text_length, config.patches_seen)
