"""Pairs a second of a whole training step, against open_clip_train's: forward, loss, backward, AdamW.

    python benchmarks/train_step.py CAPTIONS [--batch 256] [--rounds 2] [--threads 2] [--write]

CAPTIONS: a Parquet file with `lang` and `caption` (Multi30K).  ViT-B/32, context 77, float32 on the CPU, the same token
ids for both: those of open_clip's tokenizer.  The second table has XLM-V's 901,629 rows, over
which the ids are spread.  A step of each runs in a process of its own, in turns; a process's first is not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

CONTEXT, CLIP_VOCAB, XLM_V_VOCAB = 77, 49_408, 901_629
CASES = (("open_clip", CLIP_VOCAB), ("ours", CLIP_VOCAB), ("open_clip", XLM_V_VOCAB), ("ours", XLM_V_VOCAB))
RESULTS = Path(__file__).parent / "results" / "train_step.md"


def token_ids(captions: Path, batch: int, vocab_size: int) -> list[list[int]]:
    """Ids of English captions, start and end token included; the end token is the table's last row."""
    import pyarrow.parquet as pq
    from open_clip import get_tokenizer

    table = pq.read_table(captions, columns=["lang", "caption"]).to_pydict()
    english = [text for lang, text in zip(table["lang"], table["caption"], strict=True) if lang == "en"]
    padded = get_tokenizer("ViT-B-32")(english[:: len(english) // batch][:batch]).numpy()
    spread = (vocab_size - 1) // (CLIP_VOCAB - 1)
    rows = [row[row > 0] * spread for row in padded]
    for row in rows:
        row[-1] = vocab_size - 1
    return [row.tolist() for row in rows]


def open_clip_step(rows: list[list[int]], vocab_size: int) -> Callable[[], float]:
    """As open_clip_train's main builds it and train_one_epoch runs it, precision fp32."""
    import open_clip
    import torch
    from open_clip.model import CLIP

    sizes = open_clip.get_model_config("ViT-B-32")
    sizes["text_cfg"]["vocab_size"] = vocab_size
    model = CLIP(**sizes, output_dict=True).train()
    is_plain = [(p, p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n)
                for n, p in model.named_parameters()]  # fmt: skip
    groups = [
        {"params": [p for p, plain in is_plain if plain], "weight_decay": 0.0},
        {"params": [p for p, plain in is_plain if not plain], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    loss_of = open_clip.ClipLoss()
    images = torch.randn(len(rows), 3, 224, 224)
    texts = torch.zeros(len(rows), CONTEXT, dtype=torch.int64)
    for i, row in enumerate(rows):
        texts[i, : len(row)] = torch.tensor(row)

    def step() -> float:
        optimizer.zero_grad()
        loss = sum(loss_of(**model(images, texts), output_dict=True).values())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return float(loss.detach())

    return step


def our_step(rows: list[list[int]], vocab_size: int) -> Callable[[], float]:
    import torch

    from worldclip.config import load_config
    from worldclip.tokenizer import Tokens
    from worldclip.train.config import TrainConfig
    from worldclip.train.distributed import World
    from worldclip.train.learner import create_learner
    from worldclip.train.loader import Batch
    from worldclip.train.step import take_step

    class Ids:  # what create_learner reads of a tokenizer
        bos_id, pad_id, eos_id, context_length = 1, 0, vocab_size - 1, CONTEXT

    ids: Any = Ids()
    ids.vocab_size = vocab_size
    table = "rows" if vocab_size == XLM_V_VOCAB else "dense"
    settings = {"model": {"preset": "vit_b32"}, "global_batch_size": len(rows), "token_table": table}
    learner = create_learner(load_config(TrainConfig, settings), ids, World(), torch.device("cpu"), None)
    offsets = np.cumsum([0, *map(len, rows)])
    tokens = Tokens(np.concatenate(rows).astype(np.int64), offsets, Ids.pad_id)
    images = torch.randint(0, 256, (len(rows), 3, 224, 224), dtype=torch.uint8)
    batch: Any = Batch(images, tokens, [], np.zeros(0), {})  # type: ignore[arg-type]
    return lambda: take_step(learner, batch, 5e-4).loss


def measure(which: str, vocab_size: int, captions: Path, batch: int, threads: int, steps: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(threads)
    rows = token_ids(captions, batch, vocab_size)
    step = (open_clip_step if which == "open_clip" else our_step)(rows, vocab_size)
    step()
    found = []
    for _ in range(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_s, wall_s = (statistics.median(values) for values in zip(*found, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_bytes": peak, "tokens": sum(map(len, rows)) / len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocab", type=int, choices=(CLIP_VOCAB, XLM_V_VOCAB))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--case", nargs=2)
    arguments = parser.parse_args()
    sizes = (arguments.captions, arguments.batch, arguments.threads, arguments.steps)
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], int(arguments.case[1]), *sizes)))
        return
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for case in CASES:
            if arguments.vocab in (None, case[1]):
                command = [sys.executable, *sys.argv, "--case", case[0], str(case[1])]
                answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found.setdefault(case, []).append(json.loads(answer.stdout))
                print(*case, found[case][-1], flush=True)
    rows = list(to_rows(found, arguments.batch))
    print("\n".join(rows))
    if arguments.write:
        tokens = next(iter(found.values()))[0]["tokens"]
        RESULTS.write_text(to_markdown(rows, arguments, tokens), encoding="utf-8")


def to_rows(found: dict[tuple[str, int], list[dict[str, Any]]], batch: int) -> list[str]:
    def median(case: tuple[str, int], key: str) -> float:
        return statistics.median(one[key] for one in found[case])

    return [
        f"| {which} | {vocab:,} | {batch / median((which, vocab), 'cpu_s'):.2f} "
        f"| {median(('open_clip', vocab), 'cpu_s') / median((which, vocab), 'cpu_s'):.2f} "
        f"| {batch / median((which, vocab), 'wall_s'):.2f} | {median((which, vocab), 'peak_bytes') / 2**30:.1f} GiB |"
        for which, vocab in found
    ]


def to_markdown(rows: list[str], arguments: argparse.Namespace, tokens: float) -> str:
    import open_clip
    import torch

    return "\n".join(
        [
            "# Pairs a second of a training step",
            "",
            f"{date.today()}, {platform.machine()}, {arguments.threads} thread(s) of 2 cores shared with other work; "
            f"torch {torch.__version__}, open_clip {open_clip.__version__}. ViT-B/32, float32, batch "
            f"{arguments.batch}, Multi30K's English captions of {tokens:.1f} tokens in the mean, context {CONTEXT}; "
            f"medians over {arguments.rounds} "
            f"round(s) of {arguments.steps} step(s). Written by `benchmarks/train_step.py`.",
            "",
            "| step | rows of the token table | pairs / s of CPU time | ratio | pairs / s of wall time | peak memory |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
