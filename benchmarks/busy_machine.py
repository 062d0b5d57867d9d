"""Training and encoding on cores that other processes use, too: by how OpenMP's threads wait for each other.

    python benchmarks/busy_machine.py [--rounds 3] [--seconds 6] [--write]    --write renews results/busy_machine.md

Settings: as OpenMP's threads wait by default (they spin for milliseconds), spin shortly and sleep then
(GOMP_SPINCOUNT=10000), sleep at once (OMP_WAIT_POLICY=passive), and one thread.
Load: none, one process that computes without end, and one per core.  Work: the steps of the emoji demo's model, and
images encoded by ViT-B/32.  Each is a process of its own; settings take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "busy_machine.md"
CORES = len(os.sched_getaffinity(0))
SETTINGS = {
    "default": {},
    "short spin": {"GOMP_SPINCOUNT": "10000"},
    "sleeping threads": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"idle": 0, "one busy process": 1, "one per core": CORES}
BATCH, VOCAB, CONTEXT = 128, 16_000, 32


def train_tiny() -> tuple[Callable[[], object], int]:
    """Return a step of the demo's model, and the samples of one."""
    import numpy as np
    import torch

    from worldclip.core.settings import load_config
    from worldclip.model.tokenizer import Tokens
    from worldclip.train.config import TrainConfig
    from worldclip.train.device import keep_freed_memory
    from worldclip.train.distributed import World
    from worldclip.train.loader import Batch
    from worldclip.train.step import train_step
    from worldclip.train.train_state import create_train_state

    class Ids:  # what create_train_state reads of a tokenizer
        bos_id, pad_id, eos_id, context_length, vocab_size = 1, 0, VOCAB - 1, CONTEXT, VOCAB

    keep_freed_memory()
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 9, BATCH)
    ids = generator.integers(3, VOCAB - 1, lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids[offsets[1:] - 1] = Ids.eos_id
    images = torch.from_numpy(generator.integers(0, 256, (BATCH, 3, 40, 40), dtype=np.uint8))
    batch = Batch(images, Tokens(ids, offsets, Ids.pad_id), [], np.zeros(0), {})
    config = load_config(TrainConfig, {"model": {"preset": "tiny"}, "global_batch_size": BATCH})
    tokenizer: Any = Ids()
    state = create_train_state(config, tokenizer, World(), torch.device("cpu"), None)
    return lambda: train_step(state, batch, 1e-4), BATCH


def encode_images() -> tuple[Callable[[], object], int]:
    """Return a call that encodes images, and how many."""
    import torch

    from worldclip.core.settings import load_config
    from worldclip.model.clip import create_model, model_config
    from worldclip.model.config import ModelConfig
    from worldclip.model.forward import embed_pixels

    class Ids:
        bos_id, pad_id, eos_id, context_length, vocab_size = 1, 0, 99, CONTEXT, 100

    tokenizer: Any = Ids()
    model = create_model(model_config(load_config(ModelConfig, {"preset": "vit_b32"}), tokenizer), 0).eval()
    pixels = torch.zeros(16, 3, 224, 224)

    def encode() -> None:
        with torch.inference_mode():
            embed_pixels(model, pixels)

    return encode, len(pixels)


WORK = {"train, demo's model": train_tiny, "images, ViT-B/32": encode_images}


def measure(work: str, seconds: float) -> float:
    """Return items per second."""
    call, items = WORK[work]()
    call()
    started_at, calls = time.perf_counter(), 0
    while time.perf_counter() - started_at < seconds:
        call()
        calls += 1
    return calls * items / (time.perf_counter() - started_at)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        print(measure(arguments.work, arguments.seconds))
        return
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    found: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for load, number in LOADS.items():
            for work in WORK:
                for setting, variables in SETTINGS.items():
                    command = [sys.executable, __file__, "--work", work, "--seconds", str(arguments.seconds)]
                    with busy_processes(number):
                        answer = subprocess.run(
                            command, env=base | variables, stdout=subprocess.PIPE, text=True, check=True
                        )
                    found.setdefault((work, setting, load), []).append(float(answer.stdout))
                    print(work, setting, load, answer.stdout.strip(), flush=True)
    text = to_markdown({key: statistics.median(rates) for key, rates in found.items()}, arguments.rounds)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


def to_markdown(rates: dict[tuple[str, str, str], float], rounds: int) -> str:
    import torch

    lines = [
        "# A busy machine",
        "",
        f"{date.today()}, {platform.machine()}, {CORES} cores; torch {torch.__version__}. Items per second, median of "
        f"{rounds} rounds, and in brackets the share of the same work's default on an idle machine. Written by "
        "`benchmarks/busy_machine.py`.",
        "",
        f"| work | threads | {' | '.join(LOADS)} |",
        f"|---|---|{'---:|' * len(LOADS)}",
    ]
    for work in WORK:
        idle = rates[work, "default", "idle"]
        for setting in SETTINGS:
            cells = [f"{rates[work, setting, load]:,.1f} ({rates[work, setting, load] / idle:.2f})" for load in LOADS]
            lines.append(f"| {work} | {setting} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
