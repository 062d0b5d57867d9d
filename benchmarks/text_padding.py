"""Padding of texts in a training step: its share of the text tower and of the step, and the time that less of it saves.

    python benchmarks/text_padding.py [--batch 128] [--rounds 5] [--threads 2] [--write]

Lengths in tokens: of web captions log-normal, 26 in the mean with a long tail, cut at 77; of names 3 to 9.  A batch's
texts are sorted by length and cut into chunks, each padded to its longest.  Rows have none (train/cpu_towers.py).
Shares are counted, of the FLOPs of an image and a text, with the last block computed as if it were any other.  Steps
are those of our trainer in float32 and bfloat16, a model per number of chunks, taking turns.  --write renews
benchmarks/results/text_padding.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from worldclip.core.settings import load_config
from worldclip.model.config import PRESETS
from worldclip.model.tokenizer import Tokens
from worldclip.train.budget import flops_per_pair
from worldclip.train.config import TrainConfig
from worldclip.train.device import keep_freed_memory
from worldclip.train.distributed import ALONE
from worldclip.train.loader import Batch
from worldclip.train.step import train_step
from worldclip.train.train_state import create_train_state

RESULTS = Path(__file__).parent / "results" / "text_padding.md"
VOCAB = 16_000
CHUNKS = (1, 4, 8, 16)
MODELS = {"ViT-B/32": "vit_b32", "ViT-H/14": "vit_h14", "the demo's": "tiny"}


def web_lengths(number: int, generator: np.random.Generator) -> np.ndarray:
    """Return lengths in tokens of captions, start and end token included: log-normal, 26 in the mean before the cut."""
    return np.clip(np.round(generator.lognormal(np.log(26) - 0.32, 0.8, number)), 3, 77).astype(np.int64)


def name_lengths(number: int, generator: np.random.Generator) -> np.ndarray:
    """Return lengths in tokens of names, start and end token included."""
    return generator.integers(3, 10, number)


def padded_tokens(lengths: np.ndarray, num_chunks: int) -> int:
    """Return the tokens that the text tower reads."""
    return sum(len(chunk) * int(chunk.max()) for chunk in np.array_split(np.sort(lengths), num_chunks))


def count_shares(preset: str, lengths: np.ndarray, num_chunks: int) -> tuple[float, float]:
    """Return the shares of padding in the tokens of the text tower, and in the FLOPs of a pair."""
    sizes, num_texts = PRESETS[preset], len(lengths)
    padded = padded_tokens(lengths, num_chunks)
    needed, taken = (flops_per_pair(sizes, tokens / num_texts) for tokens in (int(lengths.sum()), padded))
    return 1 - int(lengths.sum()) / padded, 1 - needed / taken


def make_step(preset: str, lengths: np.ndarray, precision: str, num_chunks: int | None) -> Callable[[], Any]:
    """Return a training step; num_chunks: by model/towers.py; None takes the trainer's own, without padding."""
    ids: Any = SimpleNamespace(bos_id=0, pad_id=1, eos_id=2, vocab_size=VOCAB, context_length=77)
    settings = {"model": {"preset": preset}, "global_batch_size": len(lengths), "precision": precision}
    config = load_config(TrainConfig, settings)
    sizes = config.model.architecture()
    ids.context_length = sizes.context_length
    state = create_train_state(config, ids, ALONE, torch.device("cpu"), None)
    if num_chunks is not None:
        state.model._towers, state.model.text_chunks = None, num_chunks
    generator = np.random.default_rng(0)
    rows = [[*generator.integers(3, VOCAB, length - 1), 2] for length in lengths]
    tokens = Tokens(np.concatenate(rows).astype(np.int64), np.cumsum([0, *map(len, rows)]), 1)
    images = torch.randint(0, 256, (len(lengths), 3, sizes.image_size, sizes.image_size), dtype=torch.uint8)
    batch: Any = Batch(images, tokens, [], np.zeros(0), {})  # type: ignore[arg-type]
    return lambda: train_step(state, batch, 1e-4)


def time_steps(preset: str, lengths: np.ndarray, rounds: int) -> list[str]:
    """Return a row of the table for each way to run the texts."""
    chunks = [("fp32", f"{number} chunks", number) for number in CHUNKS[1:]]
    cases = [*chunks, ("fp32", "rows", None), ("bf16", "rows", None)]
    steps = {(precision, name): make_step(preset, lengths, precision, number) for precision, name, number in cases}
    times: dict[tuple[str, str], list[float]] = {case: [] for case in steps}
    for _ in range(rounds + 1):
        for case, step in steps.items():
            started_at = time.perf_counter()
            step()
            times[case].append(time.perf_counter() - started_at)
    medians = {case: statistics.median(seconds[1:]) for case, seconds in times.items()}
    plain = medians["fp32", f"{CHUNKS[1]} chunks"]
    return [
        f"| {precision} | {name} | {1000 * seconds:,.0f} | {plain / seconds:.2f} |"
        for (precision, name), seconds in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    generator = np.random.default_rng(0)
    captions = {"web captions": web_lengths(1024, generator), "names": name_lengths(1024, generator)}
    lines = [
        "# Padding of texts in training",
        "",
        f"{date.today()}, {platform.machine()}, {arguments.threads} thread(s) of {os.cpu_count()} cores; torch "
        f"{torch.__version__}. Written by `benchmarks/text_padding.py`, which says what a row is.",
        "",
        "Padding as a share of the text tower's tokens / of a pair's FLOPs, batches of 1,024:",
        "",
        "| model | texts | mean length | " + " | ".join(f"{n} chunks" for n in CHUNKS) + " |",
        "|---|---|---:|" + "---:|" * len(CHUNKS),
    ]
    for model, preset in MODELS.items():
        for what, lengths in captions.items():
            cells = [" / ".join(f"{share:.1%}" for share in count_shares(preset, lengths, n)) for n in CHUNKS]
            lines.append(f"| {model} | {what} | {lengths.mean():.1f} | {' | '.join(cells)} |")
    for model, preset, what in (("ViT-B/32", "vit_b32", "web captions"), ("the demo's", "tiny", "names")):
        rows = time_steps(preset, captions[what][: arguments.batch], arguments.rounds)
        title = f"A step of {arguments.batch} pairs, {model} model, {what}; the ratio is to 4 chunks in float32:"
        lines += ["", title, "", "| precision | texts run as | ms | faster |", "|---|---|---:|---:|", *rows]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
