"""The kept rows of a pool of Parquet files with all their columns, ready for img2dataset: curate before the download.

RUN/curate/parquet/<shard> has the columns of the pool's file and, for the texts that were kept: kept_text (the first),
kept_texts, kept_text_idx and kept_lang (lists).  Rows keep their order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worldclip.contracts import layout
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import POOL_PAIRS
from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.core.execute import Executor, Report, Shard, add_counts
from worldclip.core.job import remove_stale
from worldclip.core.keys import KeyTable
from worldclip.curate.candidates import key_starts, read_curated
from worldclip.pool.files import open_file
from worldclip.pool.row_groups import rows_by_group


def write_parquet(run_dir: Path, shards: Sequence[Shard], executor: Executor, curate_digest: str) -> dict[str, int]:
    """Write RUN/curate/parquet/<shard> of every shard; return the number of rows."""
    folder = layout.curated_tables(run_dir)
    done_dir = layout.curate_work(run_dir) / "parquet"
    remove_stale(folder, [folder / shard.name for shard in shards])
    write = functools.partial(_write_shard, run_dir=run_dir)
    reports = executor.map(write, shards, label="parquet", done_dir=done_dir, key={"curate": curate_digest})
    return add_counts(reports, ("rows",))


def _write_shard(shard: Shard, *, run_dir: Path) -> Report:
    curated = read_curated(run_dir, shard)
    keys = one_array(curated.column("key"))
    starts = key_starts(keys)
    first = pa.array(starts[:-1])
    offsets = pa.array(starts, pa.int32())
    text = one_array(curated.column("text"))
    lang = one_array(curated.column("lang")).cast(pa.string())
    columns = {
        "kept_text": text.take(first),
        "kept_texts": pa.ListArray.from_arrays(offsets, text),
        "kept_text_idx": pa.ListArray.from_arrays(offsets, one_array(curated.column("text_idx"))),
        "kept_lang": pa.ListArray.from_arrays(offsets, lang),
    }
    texts = pa.table(columns)  # one row per kept key
    pairs = artifacts.read_table(layout.pool_pairs(run_dir, shard.name), POOL_PAIRS, ["key", "row", "reason"])
    pairs = pairs.filter(pc.equal(pairs["reason"].cast(pa.string()), Reason.KEPT.label))
    rows = pairs["row"].to_numpy()[KeyTable(pairs["key"]).find(keys.take(first))]  # ascending, in the pool's file
    path = layout.curated_tables(run_dir) / shard.name
    with artifacts.whole_file(path) as aside, open_file(shard.path) as source, pq.ParquetFile(source) as file:
        names = [name for name in file.schema_arrow.names if name not in texts.column_names]
        fields = [*(file.schema_arrow.field(name) for name in names), *texts.schema]
        schema = pa.schema(fields, metadata=file.schema_arrow.metadata)  # says which column holds images
        with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
            num_written = 0
            for group, group_rows in rows_by_group(file.metadata, rows):  # one in memory: it may hold images
                table = file.read_row_group(group, names).take(pa.array(group_rows))
                group_texts = texts.slice(num_written, len(group_rows))
                writer.write_table(pa.Table.from_arrays([*table.columns, *group_texts.columns], schema=schema))
                num_written += len(group_rows)
    return {"pairs": len(rows), "rows": len(rows)}
