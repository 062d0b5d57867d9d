"""Keys that stand in several shards: `worldclip pool dedup` beside a dict that holds the whole pool, and DuckDB.

    python benchmarks/pool_dedup.py [--write]        --write renews benchmarks/results/pool_dedup.md

Parquet shards of 100,000 keys of 32 hex digits, a tenth of them drawn from an earlier shard; all read the same files
and must list as many copies, or the benchmark stops.  Each runs in a process of its own, for CPU time and peak memory
above what the imports take.  DuckDB has one thread.  Numbers are medians
of ROUNDS, in turns.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

KEYS_A_SHARD = 100_000
SIZES = (5, 20)  # shards
ROUNDS = 3
RESULTS = Path(__file__).parent / "results" / "pool_dedup.md"


def write_pool(folder: Path, num_shards: int) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for shard in range(num_shards):
        drawn = random.integers(0, 2**63, KEYS_A_SHARD, np.int64)
        again = random.random(KEYS_A_SHARD) < 0.1
        numbers = np.where(again, np.arange(KEYS_A_SHARD) * (1 + shard // 2), drawn)
        keys = pa.array([f"{number:032x}" for number in numbers.tolist()])
        pq.write_table(pa.table({"uid": keys, "text": ["a photo"] * KEYS_A_SHARD}), folder / f"{shard:05}.parquet")


def ours(folder: Path, out: Path) -> int:
    from worldclip.config import load_recipe
    from worldclip.core.execute import LocalExecutor
    from worldclip.tools.dedup import dedup

    recipe = load_recipe({"pool": {"path": str(folder), "key": "uid"}, "balance": {"tail_fraction": 0.1}})
    return dedup(recipe.pool, out, executor=LocalExecutor(quiet=True))["copies"]


def peer(folder: Path, out: Path) -> int:
    first: dict[str, str] = {}
    copies = []
    for path in sorted(folder.glob("*.parquet")):
        keys = dict.fromkeys(pq.read_table(path, columns=["uid"])["uid"].to_pylist())
        copies += [(path.name, key) for key in keys if first.setdefault(key, path.name) != path.name]
    out.mkdir()
    pq.write_table(pa.table({"shard": [name for name, _ in copies], "key": [key for _, key in copies]}), out / "copies")
    return len(copies)


SQL = """
    copy (
        with keys as (
            select filename as shard, uid, min(file_row_number) as row
            from read_parquet($files, filename = true, file_row_number = true) group by all
        ),
        firsts as (select *, min(shard) over (partition by uid) as first_shard from keys)
        select shard, uid, first_shard from firsts where shard <> first_shard order by shard, row
    ) to '{out}' (format parquet)
"""


def sql(folder: Path, out: Path) -> int:
    import duckdb

    out.mkdir()
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(SQL.format(out=out / "copies.parquet"), {"files": str(folder / "*.parquet")})
    return pq.read_metadata(out / "copies.parquet").num_rows


WAYS = {"ours": ours, "dict": peer, "DuckDB": sql}


def measure(name: str, folder: Path, out: Path) -> dict[str, float]:
    """One of them in a process of its own: {copies, seconds of CPU, MiB above those after a first small call}."""
    done = subprocess.run(
        [sys.executable, __file__, name, str(folder), str(out)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, folder: Path, out: Path) -> dict[str, float]:
    small = out.with_name(f"{out.name}_small_pool")
    write_pool(small, 1)
    call = WAYS[name]
    call(small, out.with_name(f"{out.name}_small"))  # compiles, imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_at = time.process_time()
    copies = call(folder, out)
    seconds = time.process_time() - started_at
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"copies": copies, "seconds": seconds, "mib": (after - before) / 1024}


def main() -> None:
    rows = []
    for num_shards in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            pool = Path(folder) / "pool"
            write_pool(pool, num_shards)
            found = [{name: measure(name, pool, Path(folder) / f"{name}{i}") for name in WAYS} for i in range(ROUNDS)]
        if len({one["copies"] for turn in found for one in turn.values()}) > 1:
            raise SystemExit(f"the lists differ: {found}")
        medians = {
            name: [statistics.median(turn[name][what] for turn in found) for what in ("seconds", "mib")]
            for name in WAYS
        }
        cells = " | ".join(f"{seconds:.1f} s, {mib:,.0f} MiB" for seconds, mib in medians.values())
        ratio = medians["DuckDB"][0] / medians["ours"][0]
        rows.append(f"| {num_shards * KEYS_A_SHARD:,} | {found[0]['ours']['copies']:,} | {cells} | {ratio:.2f} |")
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = f"Python {platform.python_version()}, pyarrow {pa.__version__}, duckdb {version('duckdb')}"
    machine = f"{processor}, one of {os.cpu_count()} shared cores, {versions}"
    text = "\n".join(
        [
            "# Keys that stand in several shards",
            "",
            f"{date.today()}, {machine}; CPU time, and peak memory above that of a first small call; ranges of 250,000 "
            "keys. Written by `benchmarks/pool_dedup.py`.",
            "",
            "| keys | copies | `pool dedup` | a dict of all keys | DuckDB | time of DuckDB / `pool dedup` |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    if "--write" in sys.argv:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
