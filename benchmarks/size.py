"""Time and memory against size: the stages over 0.25, 0.5, 1 and 2 million rows, one process per stage and size.

    python benchmarks/size.py [--only stages|hash] [--write]        --write renews benchmarks/results/size.md

Captions of benchmarks/curation.py, repeated under keys of their own, in Parquet shards of 62,500 rows, on one core.
Linear: the time per row stays the same.  Flat: the peak of resident memory does not grow with the rows.

hash: `pool hash` over a quarter of the rows, images of 16 x 16 pixels in tars, which are one file under many names.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from curation import read_world, write_world
from match import describe_processor
from PIL import Image

from worldclip import balance, curate, match, pool
from worldclip.check import hash_images
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
HASH_SIZES = tuple(size // 4 for size in SIZES)
STAGES = {"pool": pool.index, "match": match.match, "balance": balance.balance, "curate": curate.curate}


def write_pool(folder: Path, texts: list[str], num_rows: int) -> None:
    for first in range(0, num_rows, ROWS_PER_SHARD):
        rows = range(first, min(first + ROWS_PER_SHARD, num_rows))
        columns = {"uid": [f"{row:032x}" for row in rows], "text": [texts[row % len(texts)] for row in rows]}
        path = folder / f"{first // ROWS_PER_SHARD:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path, compression="zstd")


def write_tars(folder: Path, num_images: int) -> None:
    """Write a tar of ROWS_PER_SHARD small images, and link it under as many names as `num_images` needs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    first = folder / "00000.tar"
    with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as tar:
        contents = []
        for _ in range(64):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize((16, 16)).save(file, "PNG")
            contents.append(file.getvalue())
        for row in range(ROWS_PER_SHARD):
            content = contents[row % len(contents)]
            member = tarfile.TarInfo(f"{row:06}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    for number in range(1, num_images // ROWS_PER_SHARD):
        os.link(first, folder / f"{number:05}.tar")


def run_stage(name: str, run_dir: Path) -> None:
    """Run a stage in this process; print its CPU seconds and the peak of resident memory in bytes."""
    if name == "hash":
        started_at = time.process_time()
        hash_images(run_dir / "tars", run_dir / "hashes.parquet", LocalExecutor(quiet=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([time.process_time() - started_at, peak]))
        return
    sections = sections_of(load_recipe(run_dir))
    context = Run(dir=run_dir, sections=sections, executor=LocalExecutor(quiet=True))
    started_at = time.process_time()
    if name == "dedup":
        dedup(context, run_dir / "dedup", executor=LocalExecutor(quiet=True))
    else:
        STAGES[name](context)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([time.process_time() - started_at, peak]))


def run_alone(name: str, run_dir: Path) -> tuple[float, float]:
    """Return (CPU seconds, peak bytes) of a stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", name, "--run", str(run_dir)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = json.loads(output.splitlines()[-1])
    return seconds, peak


def measure_hashes(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return (CPU seconds, peak bytes) of `pool hash` at each of HASH_SIZES."""
    found = []
    for size in HASH_SIZES:
        write_tars(folder / str(size) / "tars", size)
        found.append(run_alone("hash", folder / str(size)))
    return {"hash": found}


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
            cost = run_alone(name, world / "run")
            if size in SIZES:
                found[name].append(cost)
    return found


def table(found: dict[str, list[tuple[float, float]]], row_counts: Sequence[int]) -> str:
    sizes = [f"{size / 1e6:.3g} M" for size in row_counts]
    head = (
        f"| stage | {' | '.join(f'us per row, {size}' for size in sizes)} | {' | '.join(f'MiB, {s}' for s in sizes)} |"
    )
    lines = [head, "|---" * (1 + 2 * len(sizes)) + "|"]
    for name, rows in found.items():
        times = [f"{seconds / size * 1e6:.2f}" for (seconds, _), size in zip(rows, row_counts, strict=True)]
        peaks = [f"{peak / 2**20:.0f}" for _, peak in rows]
        lines.append(f"| {name} | {' | '.join(times)} | {' | '.join(peaks)} |")
    return "\n".join(lines)


def machine() -> str:
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{date.today()}, {describe_processor()}, {platform.machine()}, one core shared with other work; {known}."


def stages_part(folder: Path) -> str:
    return f"""# Time and memory against size

{machine()} CPU time per \
row (loading compiled code and models included) and peak of resident memory of one process per stage; Parquet shards \
of {ROWS_PER_SHARD:,} rows with one caption each. Written by `benchmarks/size.py`.

{table(measure(folder), SIZES)}
"""


def hash_part(folder: Path) -> str:
    return f"""## Hashes of images

{machine()} `worldclip pool hash` over images of 16 x 16 pixels in tars of {ROWS_PER_SHARD:,}: what grows with their \
number; decoding a photograph takes longer ([dedup.md](dedup.md)). Per image and in one process, as above.

{table(measure_hashes(folder), HASH_SIZES)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", choices=["stages", "hash"], help="renew only this part of the page")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.run)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    start, mark, rest = RESULTS.read_text(encoding="utf-8").partition("\n## ")
    parts = {"stages": start, "hash": mark.strip("\n") + rest}
    for name, part in (("stages", stages_part), ("hash", hash_part)):
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                parts[name] = part(Path(folder))
            print(parts[name])
    if arguments.write:
        RESULTS.write_text(f"{parts['stages'].rstrip()}\n\n{parts['hash'].rstrip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
