"""`worldclip pool dedup`: the pairs of a pool whose key an earlier shard has.

A key may be in several shards; its copy in the first shard by name stays.  The list names the other copies by shard and
key.  As `pool.deny_keys` it removes these copies, and only these, from counts and curated pairs.

    OUT/duplicates.parquet      shard, key, first_shard of each copy, by shard, in the order of the shard
    OUT/pool/                   the pairs of a pool that is no run

Memory is bounded: DuckDB compares the keys, and spills to OUT.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import pool as pools
from worldclip.contracts.records import skipped_shards
from worldclip.contracts.schemas import DUPLICATES
from worldclip.core.arrow import names_of
from worldclip.core.artifacts import write_tables
from worldclip.core.command import Command, OutFolder
from worldclip.core.execute import Executor, Report
from worldclip.core.job import Job, Result, Run, lock_folder
from worldclip.core.sorted_keys import hash_pairs
from worldclip.core.spill import BATCH_ROWS, open_database
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.listing import check_place
from worldclip.pool.stage import skipped_lines

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
    folder = Path(out)
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    config = run.section(PoolConfig)
    check_own(folder, "dedup", ("pool", "duplicates.parquet"))
    check_place(folder, pools.list_pool(run).names(), config)
    with lock_folder(folder):
        run, shards = pools.read_pool(run, folder, needs_texts=False, executor=executor)
        inputs = {"shards": {shard.name: shard.fingerprint for shard in shards}}
        job = Job("dedup", folder, {"pool": config.identity}, lambda: inputs)
        check_source(job, config.location)
        return job.run_once(lambda: _dedup(run, folder, [shard.name for shard in shards]))


def _dedup(run: Run, folder: Path, shards: Sequence[str]) -> Result:
    path = folder / "duplicates.parquet"
    counts: Counter[str] = Counter({"shards": len(shards), "pairs": 0})
    with open_database(folder / ".spilled") as database:
        database.execute("CREATE TABLE keys (hash UBIGINT, other UBIGINT, row BIGINT)")
        starts = [0]  # of each shard's keys in all
        for name in shards:
            keys, num_without, num_repeated = pools.read_keys(run.dir, name)
            hashes, second_hashes = hash_pairs(keys)
            rows = np.arange(starts[-1], starts[-1] + len(keys))
            database.from_arrow(pa.table({"hash": hashes, "other": second_hashes, "row": rows})).insert_into("keys")
            starts.append(starts[-1] + len(keys))
            counts.update(no_identity=num_without, repeated_in_shard=num_repeated)
            counts["pairs"] += len(keys) + num_without + num_repeated
        batches = database.sql(COPIES).to_arrow_reader(BATCH_ROWS)
        write_tables(path, _copies(batches, run.dir, shards, starts), DUPLICATES)
    counts["copies"] = pq.read_metadata(path).num_rows
    counts["keys"] = starts[-1] - counts["copies"]
    skipped = skipped_shards(run.dir)
    return Result(
        report={**counts, "skipped": skipped},
        counts=dict(counts),
        outputs=[path, folder / "pool"],
        manifest={"source": run.section(PoolConfig).location, "skipped": skipped},
    )


def _copies(
    batches: Iterable[pa.RecordBatch], run_dir: Path, shards: Sequence[str], starts: Sequence[int]
) -> Iterator[pa.Table]:
    """Yield all copies by shard, with the columns of DUPLICATES; batches: rows of COPIES.

    The statistics of a row group tell a reader which shards are in it.  128 bits of hashes stand for a key: of 10
    billion keys two are taken for one with a chance of 1e-19.
    """
    for batch in batches:
        rows = batch["row"].to_numpy()
        shard = np.searchsorted(starts, rows, "right") - 1
        first_shard = np.searchsorted(starts, batch["of_first"].to_numpy(), "right") - 1
        parts = []
        for number in np.unique(shard):
            keys, _, _ = pools.read_keys(run_dir, shards[number])
            parts.append(keys.take(pa.array(rows[shard == number] - starts[number])))
        yield pa.table(
            {
                "shard": names_of(shard, shards),
                "key": pa.chunked_array(parts, pa.large_string()),
                "first_shard": names_of(first_shard, shards),
            }
        )


@Command
def dedup_pool(pool: str, out: OutFolder, *, key: str | None = None, executor: Executor) -> tuple[Any, str]:
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
