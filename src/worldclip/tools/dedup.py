"""`worldclip pool dedup`: the pairs of a pool whose key an earlier shard has.

A key may be in several shards; its copy in the first shard by name stays.  The list names the other copies by shard and
key.  As `pool.deny_keys` it removes these copies, and only these, from counts and curated pairs.

    OUT/duplicates.parquet      shard, key, first_shard of each copy, by shard, in the order of the shard
    OUT/keys/<shard>.parquet    the shard's keys, kept so that a later call reads new and changed shards only
    OUT/pool/                   the pairs of a pool that is no run

Memory is bounded: DuckDB compares the keys, and spills to OUT.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import pool as pools
from worldclip.contracts import layout
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.schemas import DUPLICATES, POOL_KEYS
from worldclip.core.arrow import names_of
from worldclip.core.artifacts import read_table, write_artifact, write_table
from worldclip.core.command import Command
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts
from worldclip.core.job import Job, Result, Run, RunLock
from worldclip.core.sorted_keys import hash_pairs
from worldclip.core.spill import BATCH_ROWS, open_database
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.stage import check_place, skipped_lines

COPIES = """
    SELECT row, of_first FROM keys JOIN (
        SELECT hash, other, min(row) AS of_first FROM keys GROUP BY hash, other HAVING count(*) > 1
    ) USING (hash, other) WHERE row <> of_first ORDER BY row
"""


def dedup(pool: PoolConfig | Run, out: str | Path, *, executor: Executor | None = None) -> Report:
    """Write OUT/duplicates.parquet of a pool; pool: its config, or the context of a run or .toml (pool.open_pool).

    Return {shards, pairs, no_identity, repeated_in_shard, copies, keys, skipped}.  pairs = no_identity +
    repeated_in_shard + copies + keys: the list names `copies`, and `keys` stay.  Raises StageFailed if shards failed.
    """
    folder, executor = Path(out), executor or LocalExecutor()
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    config = run.section(PoolConfig)
    check_own(folder, "dedup", ("pool", "keys", "duplicates.parquet"))
    check_place(folder, pools.list_pool(run), config)
    with RunLock(folder):
        run, shards = pools.read_pool(run, folder, needs_texts=False, executor=executor)
        inputs = {"shards": {shard.name: shard.fingerprint for shard in shards}}
        job = Job("dedup", folder, {"pool": config.identity}, lambda: inputs)
        check_source(job, config.location)
        return job.run_once(lambda: _dedup(run, folder, shards, executor))


def _dedup(run: Run, folder: Path, shards: Sequence[Shard], executor: Executor) -> Result:
    config, skipped = run.section(PoolConfig), skipped_shards(run.dir)
    write = partial(write_keys, run_dir=run.dir, folder=folder)
    done_dir = layout.done_dir(folder, "keys")
    reports = executor.map(write, shards, label="keys", done_dir=done_dir, key=config.identity)
    totals = add_counts(reports, ("keys", "pairs", "no_identity", "repeated_in_shard"))
    num_keys = totals.pop("keys")
    copies = write_list(folder, [shard.name for shard in shards])
    outputs = [folder / "duplicates.parquet", *(keys_path(folder, shard.name) for shard in shards)]
    outputs += [layout.marker(folder, f"keys/{shard.name}") for shard in shards]
    counts = {"shards": len(shards), **totals, "copies": copies, "keys": num_keys - copies}
    outputs.append(folder / "pool")
    manifest = {"source": config.location, "skipped": skipped}
    return Result(report=counts | {"skipped": skipped}, counts=counts, outputs=outputs, manifest=manifest)


def keys_path(folder: Path, shard: str) -> Path:
    return folder / "keys" / f"{shard}.parquet"


def write_keys(shard: Shard, *, run_dir: Path, folder: Path) -> Report:
    """Write the shard's keys, each once, in the order of the shard."""
    keys, num_without, num_repeated = pools.read_keys(run_dir, shard.name)
    write_table(keys_path(folder, shard.name), pa.table({"key": keys}), POOL_KEYS)
    pairs = len(keys) + num_without + num_repeated
    return {"pairs": pairs, "no_identity": num_without, "repeated_in_shard": num_repeated, "keys": len(keys)}


def write_list(folder: Path, shards: Sequence[str]) -> int:
    """Write all copies by shard; return their number.

    The statistics of a row group tell a reader which shards are in it.  128 bits of hashes stand for a key: of 10
    billion keys two are taken for one with a chance of 1e-19.
    """
    num_copies = 0
    with open_database(folder / ".spilled") as database:
        database.execute("CREATE TABLE keys (hash UBIGINT, other UBIGINT, row BIGINT)")
        starts = [0]  # of each shard's rows in all
        for name in shards:
            hashes, others = hash_pairs(read_keys(folder, name))
            rows = np.arange(starts[-1], starts[-1] + len(hashes))
            database.from_arrow(pa.table({"hash": hashes, "other": others, "row": rows})).insert_into("keys")
            starts.append(starts[-1] + len(hashes))

        def write(aside: Path) -> None:
            nonlocal num_copies
            with pq.ParquetWriter(aside, DUPLICATES, compression="zstd") as file:
                for batch in database.sql(COPIES).to_arrow_reader(BATCH_ROWS):
                    if not len(batch):  # a row group without rows is read by few
                        continue
                    rows = batch["row"].to_numpy()
                    shard, first = (np.searchsorted(starts, batch[name], "right") - 1 for name in ("row", "of_first"))
                    parts = [
                        read_keys(folder, shards[number]).take(pa.array(rows[shard == number] - starts[number]))
                        for number in np.unique(shard)
                    ]
                    columns = {
                        "shard": names_of(shard, shards).dictionary_encode(),
                        "key": pa.chunked_array([chunk for part in parts for chunk in part.chunks]),
                        "first_shard": names_of(first, shards).dictionary_encode(),
                    }
                    file.write_table(pa.table(columns).cast(DUPLICATES))
                    num_copies += len(batch)

        write_artifact(folder / "duplicates.parquet", write)
    return num_copies


def read_keys(folder: Path, shard: str) -> pa.ChunkedArray:
    return read_table(keys_path(folder, shard), POOL_KEYS)["key"]


@Command
def dedup_pool(pool: str, out: Path, *, key: str | None = None, executor: Executor) -> tuple[Any, str]:
    """List the pairs whose key an earlier shard has, for pool.deny_keys.

    out: folder to write; its duplicates.parquet is a value of pool.deny_keys.

    Examples:
        worldclip pool dedup pool --out copies
        worldclip pool dedup my.toml --out copies --key json:uid
    """
    report = dedup(pools.open_pool(pool, key=key), out, executor=executor)
    path = out / "duplicates.parquet"
    lines = [
        f"{report['copies']:,} of {report['pairs']:,} pairs repeat a key of an earlier shard: {path}",
        f"{report['repeated_in_shard']:,} repeat a key of their own shard (match drops them), "
        f"{report['no_identity']:,} have no key",
    ]
    if report["copies"]:
        lines.append(f'deny_keys = ["{path.resolve()}"]')
    return report, "\n".join([*lines, *skipped_lines(report["skipped"])])
