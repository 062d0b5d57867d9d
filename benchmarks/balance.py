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
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import formats
from worldclip.balance.balance import list_probs, threshold_for
from worldclip.balance.sums import add_counts, sum_shards
from worldclip.columns import names_of
from worldclip.execute import LocalExecutor

NUM_ENTRIES, NUM_LISTS = 27_000_000, 330
NUM_SHARDS, MATCHES_PER_SHARD = 64, 210_000  # 10,000 texts a shard, 21 matches a text
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
    formats.write_table(path, table, formats.MATCH_COUNTS)
    return table.num_rows


def measure(folder: Path) -> str:
    sizes, rng = list_sizes(), np.random.default_rng(0)
    paths = [folder / f"{i:05}.parquet" for i in range(NUM_SHARDS)]
    rows = [write_shard(path, sizes, rng) for path in paths]
    counts = {name: np.zeros(size, np.uint64) for name, size in sizes.items()}
    add_counts(counts, paths[0])  # warm
    started_at = time.perf_counter()
    for path in paths:
        add_counts(counts, path)
    per_shard_s = (time.perf_counter() - started_at) / NUM_SHARDS
    started_at = time.perf_counter()
    sum_shards(sizes, paths, folder / "sums", LocalExecutor(quiet=True), group_size=NUM_SHARDS // 2)
    group_rows = formats.read_table(folder / "sums" / "000000.parquet", formats.MATCH_COUNTS).num_rows
    started_at = time.perf_counter()
    add_counts(counts, folder / "sums" / "000000.parquet")
    per_row_s = (time.perf_counter() - started_at) / group_rows
    started_at = time.perf_counter()
    for list_counts in counts.values():
        list_probs(list_counts, threshold_for(list_counts, 0.06) if list_counts.any() else None)
    balance_s = time.perf_counter() - started_at
    groups = FULL_SHARDS // 2048
    tree_s = groups * sum(sizes.values()) * per_row_s  # the last step at worst: every entry in every group
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"""# Sums and thresholds at full size

{date.today()}, {platform.machine()}, {os.cpu_count()} cores (one used). {sum(sizes.values()):,} entries in \
{NUM_LISTS} lists, {NUM_SHARDS} synthetic shards of {MATCHES_PER_SHARD:,} matches ({int(np.mean(rows)):,} rows). \
Written by `benchmarks/balance.py`.

| what | measured |
|---|---|
| read and add one shard's counts | {1e3 * per_shard_s:.1f} ms |
| read and add one row of a group's sum | {1e9 * per_row_s:.0f} ns |
| thresholds and probabilities of all lists | {balance_s:.1f} s |
| peak memory of the process | {peak:.2f} GiB |

Reckoned from these for {FULL_SHARDS:,} shards (16 billion texts): one process shard by shard \
{FULL_SHARDS * per_shard_s / 3600:.1f} h; by groups of 2,048, {FULL_SHARDS * per_shard_s / 3600:.1f} core hours that \
divide over workers, then at most {tree_s / 60:.0f} minutes for the {groups:,} sums of groups in one process.
"""


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
