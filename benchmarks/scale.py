"""What one process does for every shard of a pool, whatever the number of workers: the limit of a very large run.

    python benchmarks/scale.py [--write]        --write renews benchmarks/results/scale.md

The process that maps a stage over shards lists and knows them, starts tasks, reads markers, adds up reports.  Measured
on a few thousand synthetic shards with reports of 100 languages; CPU time, since waiting for a disk or a network is
another machine's matter.  What the stages take per pair: benchmarks/hundred_million.py.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from worldclip.core.artifacts import fingerprint, versions
from worldclip.core.execute import FileGroups, RayExecutor, Shard, equal_starts, groups
from worldclip.core.execute.shards import Reports, ShardWork
from worldclip.core.job import FilePerShard, remove_stale
from worldclip.match.accounting import sum_reports
from worldclip.pool import list_shards
from worldclip.pool.config import PoolConfig

RESULTS = Path(__file__).parent / "results" / "scale.md"
NUM_SHARDS, NUM_TASKS, NUM_LANGUAGES = 4000, 2000, 100
NUM_SHARDS_IN_TASKS = 20_000  # of the runs with several shards per task
TURNS = 3
MEMORY_DISK = "/dev/shm"  # for the markers of tasks: a disk's flushes (5 ms a marker here) are a matter of the nodes
FULL_SHARDS = 1_600_000


def report_of(shard: Shard) -> dict:
    """A report of match as 60,000 texts in 100 languages give it."""
    row = dict.fromkeys(("no_language", "no_match", "matched"), 12345)
    table = {f"l{i:03}": row for i in range(NUM_LANGUAGES)}
    sums = {"pairs": 62_500, "num_keys": 62_500, "num_matched_texts": 30_000, "num_matched_keys": 30_000}
    labels = {f"x{i:02}": 7 for i in range(30)}
    samples = {reason: [] for reason in ("no_language", "no_match")}
    return {**sums, "texts": table, "keys": table, "bad": [], "samples": samples, "labels_without_language": labels}


def note(folder: Path, shard: Shard) -> dict:
    return {"pairs": 1}


def cpu_us(work: Callable[[], object], num: int) -> float:
    """Microseconds of this process a shard."""
    started_at = time.process_time()
    work()
    return (time.process_time() - started_at) / num * 1e6


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def make_pool(folder: Path) -> None:
    for i in range(NUM_SHARDS):
        path = folder / f"{i // 1000:03}" / f"{i:06}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


class Tasks(NamedTuple):
    """Shards without work on a Ray of two CPUs."""

    cpu_us: float
    """Of this process per shard."""
    per_s: float


def measure_tasks(folder: Path) -> tuple[Tasks, Tasks]:
    """Return the medians of pairs of runs: with several shards per task, and with one."""
    executor = RayExecutor(workers=None, quiet=True)
    run = functools.partial(executor.map, functools.partial(note, folder), label="x", key={})
    shards = [Shard(name=f"{i:06}", path="") for i in range(NUM_TASKS)]
    run(shards=shards[:20], done_dir=folder / "warm")
    usual = groups.MAX_SHARDS_PER_TASK
    measured: dict[int, list[Tasks]] = {usual: [], 1: []}
    for turn in range(TURNS):
        for limit, results in measured.items():
            groups.MAX_SHARDS_PER_TASK = limit
            num_shards = NUM_TASKS if limit == 1 else NUM_SHARDS_IN_TASKS
            done_dir = folder / f"done {turn} {limit}"
            some = [Shard(name=f"{i // 1000:03}/{i:06}", path="") for i in range(num_shards)]
            started_at = time.perf_counter()
            us = cpu_us(functools.partial(run, shards=some, done_dir=done_dir), num_shards)
            results.append(Tasks(us, num_shards / (time.perf_counter() - started_at)))
    groups.MAX_SHARDS_PER_TASK = usual
    several, one = (Tasks(*map(statistics.median, zip(*results, strict=True))) for results in measured.values())
    return several, one


def measure(folder: Path) -> str:
    make_pool(folder / "pool")
    rows: list[tuple[str, float]] = []
    list_shards(PoolConfig(path=str(folder / "pool" / "000")))  # imports what it needs
    before = resident_bytes()
    listed = []
    list_us = cpu_us(lambda: listed.append(list_shards(PoolConfig(path=str(folder / "pool")))), NUM_SHARDS)
    shards = listed[0]
    shard_bytes = (resident_bytes() - before) / NUM_SHARDS
    rows.append(("list the pool, know each file (empty files)", list_us))
    work = ShardWork(fn=report_of, done_dir=folder / "match" / "done", key="k")
    rows.append(("(a worker writes the marker)", cpu_us(lambda: [work.run(shard) for shard in shards], NUM_SHARDS)))
    before = resident_bytes()
    left_us = cpu_us(lambda: sum(work.finished_report(shard) is None for shard in shards), NUM_SHARDS)
    rows.append(("read the marker: is the shard done", left_us))
    add_us = cpu_us(lambda: sum_reports(Reports(work, shards)), NUM_SHARDS)
    rows.append(("read the report from its marker, add it up", add_us))
    report_bytes = (resident_bytes() - before) / NUM_SHARDS
    names = [shard.name for shard in shards]
    markers = FilePerShard(work.done_dir, frozenset(names), ".json")
    rows.append(("look for files of no shard", cpu_us(lambda: remove_stale(folder / "match", [markers]), NUM_SHARDS)))
    files = FileGroups(work.done_dir, names, ".json", equal_starts(NUM_SHARDS, NUM_SHARDS))
    rows.append(("know a file of counts (stat, for the sums)", cpu_us(lambda: files[0], NUM_SHARDS)))
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as markers_dir:
        several, one = measure_tasks(Path(markers_dir))
    rows.insert(2, ("start it on Ray in a task of several, take its outcome", several.cpu_us))
    rows.insert(3, ("(start it in a task of its own, take its outcome)", one.cpu_us))
    hash_s = hash_seconds(folder / "large")
    return page(rows, (shard_bytes, report_bytes), (several, one), hash_s)


def hash_seconds(path: Path) -> float:
    """CPU seconds a GB of hashing a file's contents, as is done for local files under 64 MiB."""
    path.write_bytes(os.urandom(2**20) * 60)
    return cpu_us(lambda: [fingerprint(path, path.parent) for _ in range(8)], 1) / 1e6 / (8 * path.stat().st_size / 1e9)


def page(
    rows: Sequence[tuple[str, float]],
    memory: tuple[float, float],
    tasks: tuple[Tasks, Tasks],
    hash_s: float,
) -> str:
    several, one = tasks
    lines = "\n".join(f"| {name} | {us:,.0f} us | {us * FULL_SHARDS / 6e7:,.1f} min |" for name, us in rows)
    known = ", ".join(f"{name} {version}" for name, version in versions(("numpy", "numba", "pyarrow", "ray")).items())
    return f"""# What one process does for every shard

{date.today()}, {platform.machine()}, 2 cores shared with other work; CPU time of one process; {known}. \
{NUM_SHARDS:,} synthetic shards, {NUM_TASKS:,} tasks, reports of {NUM_LANGUAGES} languages. Written by \
`benchmarks/scale.py`.

| what | a shard | {FULL_SHARDS:,} shards |
|---|---|---|
{lines}

Memory: {memory[0] / 1000:.1f} kB a shard for its name and what it is known by, {memory[0] * FULL_SHARDS / 1e9:.1f} GB \
for {FULL_SHARDS:,}; {max(memory[1], 0) / 1000:.1f} kB a shard more while reports are added up. Hashing \
a local file's contents (files under 64 MiB): {hash_s:.2f} s of CPU time a GB.

Shards without work on a Ray of two CPUs, markers in memory, medians of {TURNS} pairs of runs in turns: \
{several.per_s:,.0f} shards a second with several per task, {one.per_s:,.0f} with one: {several.per_s / one.per_s:.1f} \
times as many, {FULL_SHARDS:,} in {FULL_SHARDS / several.per_s / 60:,.1f} minutes instead of \
{FULL_SHARDS / one.per_s / 60:,.1f}. The same two CPUs wrote the markers, which on a cluster other machines do: the \
process that maps was busy for {several.per_s * several.cpu_us / 1e4:.0f}% of the time, and for \
{one.per_s * one.cpu_us / 1e4:.0f}% with one shard per task. Its CPU time alone allows \
{1e6 / several.cpu_us:,.0f} shards a second instead of {1e6 / one.cpu_us:,.0f}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    if sys.platform != "linux":
        sys.exit("reads /proc")
    os.environ.pop("RAY_ADDRESS", None)
    own = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]  # Ray's workers import `note`
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, own))
    folder = Path(tempfile.mkdtemp())
    try:
        text = measure(folder)
    finally:
        shutil.rmtree(folder)
    print(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
