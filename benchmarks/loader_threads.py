"""Samples per second of training on a CPU: loader threads with one OpenMP thread each, against torch's default.

    python benchmarks/loader_threads.py runs/emoji [--rounds 3] [--samples 25600] [--write]

The argument is a curated run of a small model, such as that of `make demo`.  A copy of it is trained.
Both sides train the same steps from the first one, in turns, in a process of their own.  A ratio is that of one round;
the first third of the steps, in which images are decoded for the first time, is not counted.
--write writes benchmarks/results/loader_threads.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "loader_threads.md"
PEER, OURS = "torch's default", "one thread each"
TRAIN = "import sys; from worldclip.cli import main; sys.exit(main())"
DEFAULT_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from worldclip.train import loader
loader._start_threads = lambda number, name: ThreadPoolExecutor(number, thread_name_prefix=name)
"""


def samples_per_s(run: Path, prelude: str, samples: int) -> float:
    """Train in a new process; return the samples per second after the first third of the steps."""
    shutil.rmtree(run / "train", ignore_errors=True)
    flags = ["--samples-seen", str(samples), "--warmup-samples", str(samples // 2)]
    command = [sys.executable, "-c", prelude + TRAIN, "train", str(run), *flags]
    subprocess.run(command, check=True, capture_output=True)
    lines = (run / "train/log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record for record in map(json.loads, lines) if "samples_seen" in record and "elapsed_s" in record]
    first, last = steps[len(steps) // 3], steps[-1]
    return (last["samples_seen"] - first["samples_seen"]) / (last["elapsed_s"] - first["elapsed_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=25_600)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {PEER: [], OURS: []}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(shutil.copytree(arguments.run, Path(folder) / "run", ignore=shutil.ignore_patterns("step_*")))
        for _ in range(arguments.rounds):
            speeds[PEER].append(samples_per_s(run, DEFAULT_THREADS, arguments.samples))
            speeds[OURS].append(samples_per_s(run, "", arguments.samples))
    ratio = statistics.median(ours / peer for peer, ours in zip(*speeds.values(), strict=True))
    lines = [
        "# Threads of the loader",
        "",
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores; torch {version('torch')}; {arguments.rounds} "
        f"rounds in turns of {arguments.samples:,} samples of {arguments.run.name}. Written by "
        "`benchmarks/loader_threads.py`.",
        "",
        "| OpenMP threads of a loader thread | samples / s (median) | all rounds |",
        "|---|---:|---|",
        *(
            f"| {side} | {statistics.median(each):,.0f} | {', '.join(f'{speed:,.0f}' for speed in each)} |"
            for side, each in speeds.items()
        ),
        "",
        f"{OURS} / {PEER}: {ratio:.2f} (median over rounds).",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
