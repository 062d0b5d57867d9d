"""Time and memory against size: the stages over 0.25, 0.5, 1 and 2 million rows, one process per stage and size.

    python benchmarks/size.py [--write]        --write renews benchmarks/results/size.md

Captions of benchmarks/curation.py, repeated under keys of their own, in Parquet shards of 62,500 rows, on one core.
Linear: the time per row stays the same.  Flat: the peak of resident memory does not grow with the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from curation import read_world, write_world
from match import describe_processor

from worldclip import balance, curate, match, pool
from worldclip.config import load_recipe
from worldclip.core.artifacts import versions, write_text
from worldclip.core.execute import LocalExecutor
from worldclip.core.job import Run
from worldclip.core.settings import to_toml
from worldclip.recipe import sections_of
from worldclip.tools.dedup import dedup

RESULTS = Path(__file__).parent / "results" / "size.md"
ROWS_PER_SHARD = 62_500
SIZES = (250_000, 500_000, 1_000_000, 2_000_000)
STAGES = {"pool": pool.index, "match": match.match, "balance": balance.balance, "curate": curate.curate}


def write_pool(folder: Path, texts: list[str], num_rows: int) -> None:
    for first in range(0, num_rows, ROWS_PER_SHARD):
        rows = range(first, min(first + ROWS_PER_SHARD, num_rows))
        columns = {"uid": [f"{row:032x}" for row in rows], "text": [texts[row % len(texts)] for row in rows]}
        path = folder / f"{first // ROWS_PER_SHARD:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, compression="zstd")


def run_stage(name: str, run_dir: Path) -> None:
    """Run a stage in this process; print its CPU seconds and the peak of resident memory in bytes."""
    sections = sections_of(load_recipe(run_dir))
    context = Run(dir=run_dir, sections=sections, executor=LocalExecutor(quiet=True))
    started_at = time.process_time()
    if name == "dedup":
        dedup(context, run_dir / "dedup", executor=LocalExecutor(quiet=True))
    else:
        STAGES[name](context)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([time.process_time() - started_at, peak]))


def measure(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return (CPU seconds, peak bytes) of each stage at each size."""
    texts, lists = read_world()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*STAGES, "dedup")}
    for size in (ROWS_PER_SHARD, *SIZES):  # the first compiles what is not in numba's cache
        world = folder / str(size)
        write_world(world, texts[:8], lists)
        write_pool(world / "rows", texts, size)
        sections = {"languages": {"codes": list(lists)}, "match": {"profile": "reference"}}
        of_pool = {"path": str(world / "rows"), "key": "uid", "texts": ["text"]}
        recipe = load_recipe({"pool": of_pool, "balance": {"tail_fraction": 0.06}, **sections})
        write_text(world / "run" / "recipe.toml", to_toml(sections_of(recipe)))
        for name in found:
            command = [sys.executable, __file__, "--stage", name, "--run", str(world / "run")]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            seconds, peak = json.loads(output.splitlines()[-1])
            if size in SIZES:
                found[name].append((seconds, peak))
    return found


def page(found: dict[str, list[tuple[float, float]]]) -> str:
    sizes = [f"{size / 1e6:g} M" for size in SIZES]
    head = (
        f"| stage | {' | '.join(f'us per row, {size}' for size in sizes)} | {' | '.join(f'MiB, {s}' for s in sizes)} |"
    )
    lines = [head, "|---" * (1 + 2 * len(sizes)) + "|"]
    for name, rows in found.items():
        times = [f"{seconds / size * 1e6:.2f}" for (seconds, _), size in zip(rows, SIZES, strict=True)]
        peaks = [f"{peak / 2**20:.0f}" for _, peak in rows]
        lines.append(f"| {name} | {' | '.join(times)} | {' | '.join(peaks)} |")
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"""# Time and memory against size

{date.today()}, {describe_processor()}, {platform.machine()}, one core shared with other work; {known}. CPU time per \
row (loading compiled code and models included) and peak of resident memory of one process per stage; Parquet shards \
of {ROWS_PER_SHARD:,} rows with one caption each. Written by `benchmarks/size.py`.

{chr(10).join(lines)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.run)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        text = page(measure(Path(folder)))
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
