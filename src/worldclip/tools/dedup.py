"""`worldclip pool dedup`: the pairs of a pool whose key an earlier shard has.

A key may be in several shards; its copy in the first shard by name stays.  The list names the other copies by shard and
key.  As `pool.deny_keys` it removes these copies, and only these, from counts and curated pairs.

    OUT/duplicates.parquet     shard, key, first_shard of each copy, by shard, in the order of the shard
    OUT/keys/<shard>.arrow     the shard's keys, kept so that a later call reads new and changed shards only
    OUT/ranges/<n>.arrow       the copies in a range of hashes
    OUT/groups/<n>.arrow       of many shards: the keys of a group of shards
    OUT/copies/<n>.arrow       of many ranges: the copies of a group of ranges

Memory is bounded: one worker holds the keys of one shard or of one range at a time (core/shuffle.py).
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
from worldclip.contracts.schemas import DUPLICATES
from worldclip.core import shuffle
from worldclip.core.arrow import names_of
from worldclip.core.artifacts import write_artifact
from worldclip.core.command import Command
from worldclip.core.execute import Executor, LocalExecutor, Report, Shard, add_counts, reads_input
from worldclip.core.job import Job, Record, Result, Run
from worldclip.core.keys import KeyTable
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import check_own, check_source
from worldclip.pool.stage import check_names, check_place

SHARDS_PER_GROUP = 256  # shards whose copies are sorted and written together


def dedup(pool: PoolConfig | Run, out: str | Path, *, executor: Executor | None = None) -> Report:
    """Write OUT/duplicates.parquet of a pool; pool: its config, or the context of a run or .toml (pool.open_pool).

    Return {shards, pairs, no_identity, repeated_in_shard, copies, keys}.  pairs = no_identity + repeated_in_shard +
    copies + keys: the list names `copies`, and `keys` stay.  Raises StageFailed if shards failed.
    """
    folder = Path(out)
    run = pool if isinstance(pool, Run) else Run.of(folder, pool)
    config = run.section(PoolConfig)
    shards = pools.shards(run)
    check_place(folder, shards, config)
    check_names(shards, config, is_key_only=True)
    check_own(folder, "dedup")

    def inputs() -> Record:
        return {"shards": {shard.name: shard.fingerprint for shard in pools.shards(run)}}

    job = Job("dedup", folder, {"pool": config.identity}, inputs)
    check_source(job, config.place)
    return job.run_once(lambda: _dedup(config, folder, pools.shards(run), executor or LocalExecutor()))


def _dedup(config: PoolConfig, folder: Path, shards: Sequence[Shard], executor: Executor) -> Result:
    paths = [keys_path(folder, shard) for shard in shards]
    reports = executor.map(
        partial(write_keys, config=config, folder=folder),
        shards,
        label="keys",
        done_dir=layout.done_dir(folder, "keys"),
        key=config.identity,
    )
    totals = add_counts(reports, ("keys", "pairs", "no_identity", "repeated_in_shard"))
    num_keys = totals.pop("keys")
    num_ranges = shuffle.num_ranges(num_keys)
    names = [f"{number:06}" for number in range(num_ranges)]
    ranges = [Shard(name=name, path=str(folder / "ranges" / f"{name}.arrow")) for name in names]
    groups = shuffle.merge_groups(
        shards,
        folder / "keys",
        executor,
        num_readers=num_ranges,
        num_rows=num_keys,
        label="groups",
        out=folder / "groups",
        done_dir=layout.done_dir(folder, "groups"),
        key=config.identity,
    )
    key = {"shards": {shard.name: shard.fingerprint for shard in shards}, "key": config.identity, "of": num_ranges}
    range_reports = executor.map(
        partial(find_copies, paths=[Path(group.path) for group in groups] or paths, num_ranges=num_ranges),
        ranges,
        label="copies",
        done_dir=layout.done_dir(folder, "ranges"),
        key=key,
    )
    copies = sum(report["copies"] for report in range_reports)
    merged = shuffle.merge_groups(
        ranges,
        folder / "ranges",
        executor,
        num_readers=-(-len(shards) // SHARDS_PER_GROUP),
        num_rows=copies,
        num_shards=len(shards),
        label="merge",
        out=folder / "copies",
        done_dir=layout.done_dir(folder, "copies"),
        key=key,
    )
    write_list(
        folder / "duplicates.parquet", [shard.name for shard in shards], [Path(unit.path) for unit in merged or ranges]
    )
    units = {"keys": shards, "ranges": ranges, "groups": groups, "copies": merged}
    outputs = [*paths, *(Path(unit.path) for unit in (*ranges, *groups, *merged)), folder / "duplicates.parquet"]
    outputs += [layout.marker(folder, f"{step}/{unit.name}") for step, of_step in units.items() for unit in of_step]
    report = {"shards": len(shards), **totals, "copies": copies, "keys": num_keys - copies}
    return Result(report=report, counts=report, outputs=outputs, manifest={"source": config.place})


def keys_path(folder: Path, shard: Shard) -> Path:
    return folder / "keys" / f"{shard.name}.arrow"


@reads_input
def write_keys(shard: Shard, *, config: PoolConfig, folder: Path) -> Report:
    """Write the shard's keys, each once, with their rows, for `find_copies` to read."""
    keys, num_without, num_repeated = pools.read_keys(shard, config)
    shuffle.write_rows(keys_path(folder, shard), pa.table({"key": keys, "row": np.arange(len(keys))}))
    pairs = len(keys) + num_without + num_repeated
    return {"pairs": pairs, "no_identity": num_without, "repeated_in_shard": num_repeated, "keys": len(keys)}


def find_copies(unit: Shard, *, paths: Sequence[Path], num_ranges: int) -> Report:
    """Write the copies among the keys of one range of hashes: key, row, and the positions shard and first_shard."""
    rows = shuffle.read_range(paths, int(unit.name), num_ranges)
    # Rows come in the order of their shards, and a table keeps the first of equal keys: that of the first shard.
    first = KeyTable(rows["key"]).find(rows["key"])
    is_copy = first != np.arange(len(rows))
    shard = rows["shard"].to_numpy()
    copies = rows.drop_columns(["hash"]).append_column("first_shard", pa.array(shard[first])).filter(pa.array(is_copy))
    shuffle.write_results(Path(unit.path), copies)
    return {"pairs": len(rows), "copies": len(copies)}


def write_list(path: Path, names: Sequence[str], ranges: Sequence[Path]) -> None:
    """Write all copies by shard; the statistics of a row group tell a reader which shards are in it."""

    def write(aside: Path) -> None:
        with pq.ParquetWriter(aside, DUPLICATES, compression="zstd") as file:
            for start in range(0, len(names), SHARDS_PER_GROUP):
                copies = shuffle.read_results(ranges, start, start + SHARDS_PER_GROUP)
                if not len(copies):  # a row group without rows is read by few
                    continue
                shard = copies["shard"].to_numpy()
                order = np.lexsort((copies["row"].to_numpy(), shard))
                columns = {
                    "shard": names_of(shard[order], names).dictionary_encode(),
                    "key": copies["key"].take(pa.array(order)),
                    "first_shard": names_of(copies["first_shard"].to_numpy()[order], names).dictionary_encode(),
                }
                file.write_table(pa.table(columns).cast(DUPLICATES), row_group_size=1 << 16)

    write_artifact(path, write)


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
    return report, "\n".join(lines)
