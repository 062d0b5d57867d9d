"""The sum of counts, thresholds and probabilities at full size: 27 million entries in 330 lists, synthetic counts.

    python benchmarks/balance.py [--write]        --write renews benchmarks/results/balance.md

Nothing here is data of anyone: entries match by Zipf's law, lists have sizes by a power law.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip.balance.formulas import threshold_for
from worldclip.balance.stage import list_probs
from worldclip.contracts import schemas
from worldclip.contracts.entry_counts import GROUP_SIZE, RANGE_SIZE, _add_files, _add_range, list_starts
from worldclip.core import artifacts
from worldclip.core.arrow import names_of
from worldclip.core.execute import Shard

NUM_ENTRIES, NUM_LISTS = 27_000_000, 330
NUM_SHARDS, MATCHES_PER_SHARD = 64, 210_000  # 10,000 texts a shard, 21 matches a text
NUM_GROUPS = 8
FULL_SHARDS = 1_600_000
RESULTS = Path(__file__).parent / "results" / "balance.md"


def list_sizes() -> dict[str, int]:
    share = 1 / np.arange(1, NUM_LISTS + 1) ** 0.8
    sizes = np.maximum(100, share / share.sum() * NUM_ENTRIES).astype(int)
    return {f"l{i:03}": int(size) for i, size in enumerate(np.minimum(sizes, 2_000_000))}


def write_shard(path: Path, sizes: dict[str, int], rng: np.random.Generator) -> int:
    """One shard's sparse counts; its number of rows."""
    names = list(sizes)
    lengths = rng.multinomial(MATCHES_PER_SHARD, np.array(list(sizes.values())) / sum(sizes.values()))
    parts = [
        np.unique(
            np.minimum((sizes[name] + 1) ** rng.random(n) - 1, sizes[name] - 1).astype(np.int32), return_counts=True
        )
        for name, n in zip(names, lengths, strict=True)
    ]
    codes = np.repeat(np.arange(len(names)), [len(ids) for ids, _ in parts])
    table = pa.table(
        {
            "entries_lang": names_of(codes, names),
            "entry_id": np.concatenate([ids for ids, _ in parts]),
            "count": np.concatenate([n for _, n in parts]).astype(np.uint64),
        }
    )
    artifacts.write_table(path, table, schemas.MATCH_COUNTS)
    return table.num_rows


def cpu_s(work: Callable[[], object]) -> float:
    started_at = time.process_time()
    work()
    return time.process_time() - started_at


def measure(folder: Path) -> str:
    sizes, rng = list_sizes(), np.random.default_rng(0)
    num_entries = sum(sizes.values())
    paths = [folder / f"{i:05}.parquet" for i in range(NUM_SHARDS)]
    rows = [write_shard(path, sizes, rng) for path in paths]
    shard_bytes = sum(path.stat().st_size for path in paths) / NUM_SHARDS
    total = _add_files(sizes, paths)  # warm
    shard_s = cpu_s(lambda: _add_files(sizes, paths)) / NUM_SHARDS
    groups = [write_group(folder / f"group{i:03}.npy", num_entries, rng) for i in range(NUM_GROUPS)]
    parts = range(0, num_entries, RANGE_SIZE)
    ranges = [Shard(name=f"{start:012}", path="", fingerprint={"size": RANGE_SIZE}) for start in parts]
    range_s = cpu_s(lambda: [_add_range(part, groups=groups, folder=folder) for part in ranges])
    group_entry_s = range_s / NUM_GROUPS / num_entries
    end_s = cpu_s(lambda: np.concatenate([np.load(folder / "ranges" / f"{part.name}.npy") for part in ranges]))
    counts = split_lists(total, sizes)
    balance_s = cpu_s(lambda: [balance_list(list_counts) for list_counts in counts.values()])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    num_groups = -(-FULL_SHARDS // GROUP_SIZE)
    full_tb, group_s = FULL_SHARDS * shard_bytes / 1e12, GROUP_SIZE * shard_s
    group_gb = num_groups * num_entries * 4 / 1e9
    add_h, gather_s = FULL_SHARDS * shard_s / 3600, num_groups * num_entries * group_entry_s
    return f"""# Sums and thresholds at full size

{date.today()}, {platform.machine()}, {os.cpu_count()} cores shared with other work (one used); CPU time. \
{num_entries:,} entries in {NUM_LISTS} lists. {NUM_SHARDS} synthetic shards of {MATCHES_PER_SHARD:,} matches \
({int(np.mean(rows)):,} rows, {shard_bytes / 1000:,.0f} kB); {NUM_GROUPS} sums of groups as of 2,048 such shards, 4 \
bytes an entry. Written by `benchmarks/balance.py`.

| what | measured |
|---|---|
| read and add one shard's counts | {1e3 * shard_s:.1f} ms |
| add one entry of one group's sum | {1e9 * group_entry_s:.2f} ns |
| read the sums of all ranges | {end_s:.2f} s |
| thresholds and probabilities of all lists | {balance_s:.1f} s |
| peak memory of the process | {peak:.2f} GiB |

Reckoned from these for {FULL_SHARDS:,} shards in {num_groups} groups:

| step | workers | time |
|---|---|---|
| groups: {add_h:.1f} core hours, {full_tb:.2f} TB read, {group_gb:.0f} GB written | 800 | \
{max(3600 * add_h / 800, group_s):.0f} s (a group takes {group_s:.0f} s: no less) |
| | 16 | {60 * add_h / 16:.0f} min |
| ranges: {gather_s:.0f} core seconds, {group_gb:.0f} GB read | 16 | {gather_s / 16:.0f} s |
| | 1 | {gather_s / 60:.1f} min |
| the end, in one process | | {end_s + balance_s:.1f} s |
"""


def write_group(path: Path, num_entries: int, rng: np.random.Generator) -> Path:
    artifacts.write_array(path, rng.integers(0, 2**31, num_entries, np.uint32))
    return path


def split_lists(total: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: total[start : start + sizes[name]] for name, start in list_starts(sizes).items()}


def balance_list(list_counts: np.ndarray) -> np.ndarray:
    return list_probs(list_counts, threshold_for(list_counts, 0.06) if list_counts.any() else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        text = measure(Path(folder))
    print(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
