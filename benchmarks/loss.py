"""Peak memory and time of the contrastive loss, forward and backward, against open_clip's ClipLoss.

    python benchmarks/loss.py [--write]        --write renews benchmarks/results/loss.md

Each case runs in a process of its own, which makes the features first; what is counted is the most memory that the
process holds beyond that, the features' gradients included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

EMBED_DIM = 512
CASES = (("open_clip", 8_192), ("ours", 8_192), ("open_clip", 16_384), ("ours", 16_384), ("ours", 32_768))
RESULTS = Path(__file__).parent / "results" / "loss.md"


def status_bytes(name: str) -> int:
    """VmRSS (now) or VmHWM (at most so far) of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(which: str, num_pairs: int) -> dict[str, float]:
    import torch

    if which == "ours":
        from worldclip.train.loss import contrastive_loss as loss_of
    else:
        from open_clip import ClipLoss

        loss_of = ClipLoss()
    generator = torch.Generator().manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(num_pairs, EMBED_DIM, generator=generator), dim=-1).requires_grad_()
        for _ in range(2)
    )
    scale = torch.tensor(14.0, requires_grad=True)
    loss_of(image[:64], text[:64], scale).backward()  # libraries' own buffers
    image.grad = text.grad = None
    before, wall, cpu = status_bytes("VmRSS"), time.perf_counter(), time.process_time()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    loss = loss_of(image, text, scale)
    loss.backward()
    peak = status_bytes("VmHWM") - before
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    threads = torch.get_num_threads()
    return {"peak_bytes": peak, "wall_s": wall_s, "cpu_s": cpu_s, "loss": float(loss.detach()), "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--case", nargs=2)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case[0], int(arguments.case[1]))))
        return
    rows, found = [], {}
    for which, num_pairs in CASES:
        command = [sys.executable, __file__, "--case", which, str(num_pairs)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
        found[which, num_pairs] = one = json.loads(answer.stdout)
        peer = found.get(("open_clip", num_pairs))
        ratio = f"1 / {peer['peak_bytes'] / one['peak_bytes']:.1f}" if peer and which == "ours" else ""
        row = f"| {which} | {num_pairs:,} | {one['peak_bytes'] / 2**20:,.0f} MiB | {ratio} | {one['wall_s']:.1f} s | "
        rows.append(row + f"{one['cpu_s']:.1f} s | {one['loss']:.6f} |")
        print(rows[-1], flush=True)
    if arguments.write:
        RESULTS.write_text(to_markdown(rows, one["threads"]), encoding="utf-8")


def to_markdown(rows: list[str], threads: int) -> str:
    import open_clip
    import torch

    from worldclip.train.config import LOSS_CHUNK_ROWS

    machine = f"{date.today()}, {platform.machine()} ({cpu_name()}), {threads:.0f} thread(s) of {os.cpu_count()} cores"
    head = [
        "# The contrastive loss's memory",
        "",
        f"{machine}, torch {torch.__version__}, open_clip {open_clip.__version__}; {EMBED_DIM} dimensions, float32, "
        f"forward and backward, ours in chunks of {LOSS_CHUNK_ROWS} rows. Written by `benchmarks/loss.py`.",
        "",
        "| loss | pairs | most memory beyond the features | of open_clip's | wall time | CPU time | value |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *rows]) + "\n"


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
