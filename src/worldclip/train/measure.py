"""Hours of a training on this machine, from ten steps on made-up pairs: `worldclip train --dry-run --measure`."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from worldclip.core.errors import UserError
from worldclip.core.preflight import require_packages
from worldclip.model.published import PublishedTokenizer
from worldclip.train.budget import find_vocab_size, hours_text
from worldclip.train.config import TrainConfig
from worldclip.train.launch import num_ranks
from worldclip.train.schedule import plan_schedule

if TYPE_CHECKING:
    from worldclip.model.tokenizer import Tokenizer
    from worldclip.train.loader import Batch

WARM_UP = 2  # steps that are not timed: memory is allocated, kernels are chosen
NUM_STEPS = 10
MAX_PAIRS = {"cpu": 32, "cuda": 256, "mps": 64}  # pairs per step: enough to fill the device, and soon over
MIN_TOKENS = 5


def measure(config: TrainConfig, run_dir: Path) -> str:
    """Return a line: samples per second of ten steps on this machine, and the hours that the training would take.

    Reading and decoding images, a teacher and other processes come on top.  Raises UserError under torchrun, and where
    the size of the vocabulary is unknown.
    """
    require_packages("train", extra="train")
    from worldclip.model.clip import pick_device
    from worldclip.model.precision import pick_precision
    from worldclip.train.distributed import ALONE
    from worldclip.train.step import train_step
    from worldclip.train.train_state import create_train_state

    if num_ranks() > 1:
        raise UserError("--measure times one process; run it without torchrun")
    vocab_size = find_vocab_size(config, run_dir)
    if vocab_size is None:
        raise UserError(f"--measure: the tokenizer {config.tokenizer.path!r} is not on this machine; download it first")
    device = pick_device(config.device)
    sizes = config.model.architecture()
    precision = pick_precision(device) if config.precision == "auto" else config.precision
    schedule = plan_schedule(config, run_dir, 1)
    pairs = min(schedule.global_batch_size, MAX_PAIRS[device.type])
    config = dataclasses.replace(config, precision=precision, initial_weights=None, accum_steps=1, patch_dropout=0.0)
    numbers: Any = PublishedTokenizer("", vocab_size, bos_id=0, pad_id=1, eos_id=2, context_length=sizes.context_length)
    state = create_train_state(config, numbers, ALONE, device, None)
    batch = made_up_batch(numbers, pairs, sizes.image_size)
    for _ in range(WARM_UP):
        train_step(state, batch, 0.0)
    started_at = time.perf_counter()
    for _ in range(NUM_STEPS):
        train_step(state, batch, 0.0)
    per_second = NUM_STEPS * pairs / (time.perf_counter() - started_at)
    hours = schedule.num_steps * schedule.global_batch_size / per_second / 3600
    return (
        f"measured    {per_second:,.1f} samples/s on this {device.type} in {NUM_STEPS} steps of {pairs} made-up pairs, "
        f"texts of {MIN_TOKENS} to {sizes.context_length // 2} tokens: {hours_text(hours)} on one process; reading and "
        "decoding images comes on top where it is slower"
    )


def made_up_batch(tokenizer: Tokenizer, pairs: int, image_size: int) -> Batch:
    """Return random images, and captions of MIN_TOKENS ids to half of the context."""
    import torch

    from worldclip.model.tokenizer import Tokens
    from worldclip.train.loader import Batch

    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (pairs, 3, image_size, image_size), dtype=np.uint8))
    lengths = generator.integers(MIN_TOKENS, max(MIN_TOKENS, tokenizer.context_length // 2) + 1, pairs)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = generator.integers(3, tokenizer.vocab_size, offsets[-1])
    ids[offsets[1:] - 1] = tokenizer.eos_id
    return Batch(images, Tokens(ids, offsets, tokenizer.pad_id), [], np.zeros(0), Counter())
