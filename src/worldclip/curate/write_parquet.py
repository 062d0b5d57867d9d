"""The kept rows of a pool of Parquet files with all their columns, ready for img2dataset: curate before the download.

RUN/curate/parquet/<shard> has the columns of the pool's file and, for the texts that were kept: kept_text (the first),
kept_texts, kept_text_idx and kept_lang (lists).  Rows keep their order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip import pool
from worldclip.contracts import layout
from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.core.execute import Executor, Report, Shard, add_counts, reads_input
from worldclip.core.job import remove_stale
from worldclip.curate.candidates import key_starts, read_curated
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import open_file


def write_parquet(
    run_dir: Path, pool_config: PoolConfig, shards: Sequence[Shard], executor: Executor, curate_digest: str
) -> dict[str, int]:
    """Write RUN/curate/parquet/<shard> of every shard; return the number of rows."""
    folder = layout.curated_tables(run_dir)
    done_dir = layout.curate_work(run_dir) / "parquet"
    remove_stale(folder, [folder / shard.name for shard in shards])
    write = functools.partial(_write_shard, run_dir=run_dir, pool_config=pool_config)
    reports = executor.map(write, shards, label="parquet", done_dir=done_dir, key={"curate": curate_digest})
    return add_counts(reports, ("rows",))


@reads_input
def _write_shard(shard: Shard, *, run_dir: Path, pool_config: PoolConfig) -> Report:
    texts = _texts_by_key(read_curated(run_dir, shard))
    rows = pool.rows_of_keys(shard, pool_config, texts.column("key"))
    texts = texts.drop_columns(["key"])

    def write(aside: Path) -> None:
        with open_file(shard.path) as source, pq.ParquetFile(source) as file:
            names = [name for name in file.schema_arrow.names if name not in texts.column_names]
            schema = pa.schema([*(file.schema_arrow.field(name) for name in names), *texts.schema])
            with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
                start = 0
                for group in range(file.num_row_groups):  # one in memory at a time: it may hold images
                    stop = start + file.metadata.row_group(group).num_rows
                    first, last = np.searchsorted(rows, (start, stop))
                    if last > first:
                        table = file.read_row_group(group, names).take(pa.array(rows[first:last] - start))
                        kept = texts.slice(first, last - first)
                        writer.write_table(pa.Table.from_arrays([*table.columns, *kept.columns], schema=schema))
                    start = stop

    artifacts.write_artifact(layout.curated_tables(run_dir) / shard.name, write)
    return {"pairs": len(rows), "rows": len(rows)}


def _texts_by_key(table: pa.Table) -> pa.Table:
    """Return one row per kept key: the key, and the columns that the module's docstring names."""
    keys = one_array(table.column("key"))
    starts = key_starts(keys)
    offsets = pa.array(starts, pa.int32())
    text = one_array(table.column("text"))
    lang = one_array(table.column("lang")).cast(pa.string())
    first = pa.array(starts[:-1])
    return pa.table(
        {
            "key": keys.take(first),
            "kept_text": text.take(first),
            "kept_texts": pa.ListArray.from_arrays(offsets, text),
            "kept_text_idx": pa.ListArray.from_arrays(offsets, one_array(table.column("text_idx"))),
            "kept_lang": pa.ListArray.from_arrays(offsets, lang),
        }
    )
