"""Pairs a second of a whole training step, against open_clip_train's: forward, loss, backward, AdamW.

    python benchmarks/train_step.py CAPTIONS [--vocab 49408] [--batch 256] [--rounds 2] [--threads 2] [--records FILE]
    python benchmarks/train_step.py CAPTIONS --write --records FILE
    python benchmarks/train_step.py CAPTIONS --arch demo --batch 128 --threads 1 --steps 30 --precision bf16
    python benchmarks/train_step.py CAPTIONS --arch ViT-L-14 --device cuda --precision bf16 --compile --steps 20

CAPTIONS: a Parquet file with `lang` and `caption` (Multi30K).  Random images, the same token ids for both
sides: those of open_clip's tokenizer, folded into the demo's 16,000 rows and spread over XLM-V's 901,629.  A step
of each runs in a process of its own, in turns; a process's first two under --compile, else its first, are not counted.
On CPUs our trainer has the C library keep freed memory; open_clip's step is measured with that setting too.
FILE gathers the measurements of several calls, a line each; --write makes benchmarks/results/train_step.md of them.

open_clip's step with XLM-V's table needs about 23 GiB at 256 pairs of ViT-B/32; `--batch 128` fits into 15.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from head import make_head

CONTEXT = 77  # of the published sizes
DEMO_VOCAB, CLIP_VOCAB, XLM_V_VOCAB = 16_000, 49_408, 901_629
DEMO = "demo"
PRESETS = {DEMO: "tiny", "ViT-B-32": "vit_b32", "ViT-B-16": "vit_b16", "ViT-L-14": "vit_l14", "ViT-H-14": "vit_h14"}
OURS = "ours"
PEER, PEER_KEPT = "open_clip", "open_clip, freed memory kept"  # by our trainer's setting of the allocator
CASES = (
    (PEER, DEMO_VOCAB),
    (OURS, DEMO_VOCAB),
    (PEER, CLIP_VOCAB),
    (OURS, CLIP_VOCAB),
    (PEER_KEPT, CLIP_VOCAB),
    (PEER, XLM_V_VOCAB),
    (OURS, XLM_V_VOCAB),
)
RESULTS = Path(__file__).parent / "results" / "train_step.md"


def token_ids(captions: Path, batch: int, vocab_size: int, context_length: int = CONTEXT) -> list[list[int]]:
    """Ids of English captions, start and end token included; the end token is the table's last row."""
    import pyarrow.parquet as pq
    from open_clip import get_tokenizer

    table = pq.read_table(captions, columns=["lang", "caption"]).to_pydict()
    english = [text for lang, text in zip(table["lang"], table["caption"], strict=True) if lang == "en"]
    padded = get_tokenizer("ViT-B-32")(english[:: len(english) // batch][:batch], context_length).numpy()
    spread = max(1, (vocab_size - 1) // (CLIP_VOCAB - 1))
    rows = [row[row > 0] * spread % (vocab_size - 1) for row in padded]
    for row in rows:
        row[-1] = vocab_size - 1
    return [row.tolist() for row in rows]


def peer_sizes(arch: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model, or one of the same sizes as the demo's."""
    import open_clip

    from worldclip.model.config import PRESETS as SIZES

    if arch != DEMO:
        return open_clip.get_model_config(arch)
    own = SIZES[PRESETS[arch]]
    return {
        "embed_dim": own.embed_dim,
        "vision_cfg": {
            "image_size": own.image_size,
            "patch_size": own.patch_size,
            "layers": own.vision_layers,
            "width": own.vision_width,
            "head_width": own.vision_head_width,
        },
        "text_cfg": {
            "context_length": own.context_length,
            "width": own.text_width,
            "heads": own.text_width // own.text_head_width,
            "layers": own.text_layers,
        },
    }


def open_clip_step(rows: list[list[int]], vocab_size: int, arguments: argparse.Namespace) -> Callable[[], float]:
    """As open_clip_train's main builds it and train_one_epoch runs it."""
    import open_clip
    import torch
    from open_clip.model import CLIP

    device = torch.device(arguments.device)
    sizes = peer_sizes(arguments.arch)
    sizes["text_cfg"]["vocab_size"] = vocab_size
    model = CLIP(**sizes, output_dict=True).train().to(device)
    is_plain = [(p, p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n)
                for n, p in model.named_parameters()]  # fmt: skip
    groups = [
        {"params": [p for p, plain in is_plain if plain], "weight_decay": 0.0},
        {"params": [p for p, plain in is_plain if not plain], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    loss_of = open_clip.ClipLoss()
    run_model = torch.compile(model) if arguments.compile else model
    side = sizes["vision_cfg"]["image_size"]
    images = torch.randn(len(rows), 3, side, side, device=device)
    texts = torch.zeros(len(rows), sizes["text_cfg"]["context_length"], dtype=torch.int64)
    for i, row in enumerate(rows):
        texts[i, : len(row)] = torch.tensor(row)
    texts = texts.to(device)
    is_bf16 = arguments.precision == "bf16"

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16) if is_bf16 else contextlib.nullcontext():
            loss = sum(loss_of(**run_model(images, texts), output_dict=True).values())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return float(loss.detach())

    return step


def our_step(rows: list[list[int]], vocab_size: int, arguments: argparse.Namespace) -> Callable[[], float]:
    import torch

    from worldclip.core.settings import load_config
    from worldclip.model.config import PRESETS as SIZES
    from worldclip.model.tokenizer import Tokens
    from worldclip.train.config import TrainConfig
    from worldclip.train.distributed import World
    from worldclip.train.loader import Batch
    from worldclip.train.step import train_step
    from worldclip.train.train_state import create_train_state

    class Ids:  # what create_train_state reads of a tokenizer
        bos_id, pad_id, eos_id = 1, 0, vocab_size - 1

    ids: Any = Ids()
    sizes = SIZES[PRESETS[arguments.arch]]
    ids.vocab_size, ids.context_length = vocab_size, sizes.context_length
    settings = {
        "model": {"preset": PRESETS[arguments.arch]},
        "global_batch_size": len(rows),
        "precision": arguments.precision,
        "compile": arguments.compile,
    }
    device = torch.device(arguments.device)
    state = create_train_state(load_config(TrainConfig, settings), ids, World(), device, None)
    offsets = np.cumsum([0, *map(len, rows)])
    tokens = Tokens(np.concatenate(rows).astype(np.int64), offsets, Ids.pad_id)
    images = torch.randint(0, 256, (len(rows), 3, sizes.image_size, sizes.image_size), dtype=torch.uint8)
    batch: Any = Batch(images, tokens, [], np.zeros(0), {})  # type: ignore[arg-type]
    return lambda: train_step(state, batch, 5e-4).loss


def matrix_speed(arguments: argparse.Namespace, batch: int) -> float:
    """Return the FLOPs per second of torch's matrix products in the shapes of the image encoder's linear layers.

    Forward, and the two products of the backward pass; each the best of five, without time to allocate the output.
    """
    import torch

    from worldclip.model.config import PRESETS as SIZES

    sizes = SIZES[PRESETS[arguments.arch]]
    width, hidden = sizes.vision_width, round(sizes.vision_width * sizes.vision_mlp_ratio)
    num_rows = batch * ((sizes.image_size // sizes.patch_size) ** 2 + 1)
    device, dtype = torch.device(arguments.device), torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    flops = seconds = 0.0
    for inputs, outputs in ((width, width), (width, hidden), (hidden, width)):
        rows, weight = torch.randn(num_rows, inputs), torch.randn(outputs, inputs)
        rows, weight = rows.to(device, dtype), weight.to(device, dtype)
        result = rows @ weight.T
        for left, right in ((rows, weight.T), (result, weight), (result.T, rows)):
            product = left @ right
            flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
            seconds += min(time_product(left, right, product) for _ in range(5))
    return flops / seconds


def time_product(left: Any, right: Any, product: Any) -> float:
    import torch

    if left.device.type == "cuda":
        torch.cuda.synchronize()
    started_at = time.perf_counter()
    torch.matmul(left, right, out=product)
    if left.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_at


def needed_flops(sizes: Any, tokens: float) -> float:
    """Return the FLOPs of a pair's step, without those of the last blocks that no feature depends on."""
    from worldclip.train.budget import BACKWARD, flops_per_pair

    patches = (sizes.image_size // sizes.patch_size) ** 2
    encoders = ((sizes.vision_width, sizes.vision_mlp_ratio, patches + 1), (sizes.text_width, 4, tokens))
    unneeded = 0.0
    for width, mlp_ratio, length in encoders:
        matrices = (2 + 2 * mlp_ratio) * width**2  # query, output, MLP
        unneeded += 2 * (length - 1) * (matrices + 2 * width * length)
    return flops_per_pair(sizes, tokens, patches) - (1 + BACKWARD) * unneeded


def measure(which: str, vocab_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from worldclip.model.config import PRESETS as SIZES
    from worldclip.train.device import keep_freed_memory, peak_memory_bytes

    torch.set_num_threads(arguments.threads)
    if which != PEER and arguments.device == "cpu":
        assert keep_freed_memory()
    rows = token_ids(arguments.captions, arguments.batch, vocab_size, SIZES[PRESETS[arguments.arch]].context_length)
    if which in (PEER, PEER_KEPT):
        step = open_clip_step(rows, vocab_size, arguments)
    else:
        step = our_step(rows, vocab_size, arguments)
    for _ in range(2 if arguments.compile else 1):
        step()
    found = []
    for _ in range(arguments.steps):
        wall, cpu = time.perf_counter(), os.times()
        step()  # reads the loss, so waits for the device
        now = os.times()
        found.append(
            (time.perf_counter() - wall, now.user - cpu.user + now.system - cpu.system, now.system - cpu.system)
        )
    wall_s, cpu_s, system_s = (statistics.median(values) for values in zip(*found, strict=True))
    device = torch.device(arguments.device)
    tokens = sum(map(len, rows)) / len(rows)
    flops = needed_flops(SIZES[PRESETS[arguments.arch]], tokens) * len(rows)
    return {
        "which": which,
        "arch": arguments.arch,
        "vocab": vocab_size,
        "batch": len(rows),
        "threads": arguments.threads,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": arguments.precision + (", compiled" if arguments.compile else ""),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "system_s": system_s,
        "flops_per_s": flops / wall_s,
        "matrix_flops_per_s": matrix_speed(arguments, len(rows)),
        "peak_bytes": peak_memory_bytes(device),
        "tokens": tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--arch", choices=PRESETS, default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--vocab", type=int, choices=(CLIP_VOCAB, XLM_V_VOCAB))
    parser.add_argument("--only", nargs="*", help="sides to measure; all by default")
    parser.add_argument("--records", type=Path, help="file that measurements are added to")
    parser.add_argument("--write", action="store_true", help="write the table of FILE and measure nothing")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], int(arguments.case[1]), arguments)))
        return
    found = []
    if arguments.records and arguments.records.exists():
        found = [json.loads(line) for line in arguments.records.read_text(encoding="utf-8").splitlines()]
    if arguments.write:
        RESULTS.write_text(to_markdown(found), encoding="utf-8")
        return
    for _ in range(arguments.rounds):
        for which, vocab in CASES:
            is_demo = arguments.arch == DEMO
            if is_demo != (vocab == DEMO_VOCAB) or arguments.vocab not in (None, vocab):
                continue
            if which not in (arguments.only or [which]):
                continue
            command = [sys.executable, *sys.argv, "--case", which, str(vocab)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(answer.stdout))
            print(found[-1], flush=True)
            if arguments.records:
                with open(arguments.records, "a", encoding="utf-8") as file:
                    file.write(answer.stdout)
    print("\n".join(to_rows(found)))


HEAD = (
    "| step | rows of the token table | batch | pairs / s | ratio | pairs / s of CPU time | ratio | of that in the "
    "kernel | GFLOP / s | matrix products' GFLOP / s | share | peak memory | times |"
)


def to_rows(found: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each side and size: medians, and the ratio to open_clip's of the same size."""
    rows = []
    for which, *size in dict.fromkeys((one["which"], *size_of(one)) for one in found):
        own, peer = ([one for one in found if (one["which"], *size_of(one)) == (name, *size)] for name in (which, PEER))
        batch = own[0]["batch"]
        cells = [which, f"{own[0]['vocab']:,}", str(batch)]
        for key in ("wall_s", "cpu_s"):
            cells.append(f"{batch / median(own, key):.2f}")
            cells.append(f"{median(peer, key) / median(own, key):.2f}" if peer else "")
        has_system = all(one["system_s"] is not None for one in own)
        cells.append(f"{median(own, 'system_s') / median(own, 'cpu_s'):.0%}" if has_system else "")
        cells.append(f"{median(own, 'flops_per_s') / 1e9:,.0f}")
        has_products = all("matrix_flops_per_s" in one for one in own)
        products = median(own, "matrix_flops_per_s") if has_products else None
        cells += [f"{products / 1e9:,.0f}", f"{median(own, 'flops_per_s') / products:.0%}"] if products else ["", ""]
        cells += [f"{median(own, 'peak_bytes') / 2**30:.1f} GiB", str(len(own))]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def size_of(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one[key] for key in ("arch", "vocab", "batch", "device", "precision"))


def median(records: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(one[key] for one in records)


def to_markdown(found: Sequence[dict[str, Any]]) -> str:
    lengths = " or ".join(sorted({f"{one['tokens']:.1f}" for one in found}))
    paths = [f"src/worldclip/{file}.py" for file in ("train/step", "train/loss", "train/cpu_towers", "model/towers")]
    lines = [
        "# Pairs a second of a training step",
        "",
        make_head(paths, ("torch", "open_clip_torch")),
        "",
        f"{found[0]['threads']} thread(s). Multi30K's English captions of "
        f"{lengths} tokens in the mean (by batch), context {CONTEXT} (the demo's model: 32); medians, "
        "the sides taking turns, a process each. GFLOP are those that the features of an image and of the text's own "
        "tokens need; matrix products: torch's "
        "alone, in the shapes of the image encoder's layers, forward and backward, in the same process.",
    ]
    for arch, device, precision in dict.fromkeys((one["arch"], one["device"], one["precision"]) for one in found):
        of = [one for one in found if (one["arch"], one["device"], one["precision"]) == (arch, device, precision)]
        lines += ["", f"## {arch}, {device}, {precision}", "", HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
        lines += to_rows(of)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
