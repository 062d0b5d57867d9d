"""Find the images of the kept pairs when the training pool is not the matched pool: a join by key.

The matched pool may hold only texts (Parquet of URLs); `train.pool` names the tars that a downloader made from it.

    RUN/train/join/images/<tar>.parquet    the tar's keys and where their images are
    RUN/train/join/kept/<shard>.parquet    the kept keys of a shard of the matched pool; under online curation, the keys
                                           that any epoch may keep
    RUN/train/join/places/<shard>.parquet  key, file, offset, size of each kept key that has an image

If several tars hold a key, the image in the first tar by name is used.  A kept key without an image is counted
(`no_image`) and left out of the plan.  Memory is bounded: DuckDB joins, and spills to the folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.contracts import layout, schemas
from worldclip.core import artifacts
from worldclip.core.arrow import names_of
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.execute.shard_list import ShardList
from worldclip.core.job import Run, remove_stale
from worldclip.core.sorted_keys import hash_pairs
from worldclip.core.spill import BATCH_ROWS, open_database
from worldclip.curate import CurateWork, online_work, read_curated
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats import format_of
from worldclip.train.config import TrainConfig

# The place of each kept key, a row in all shards, in the first tar that has it; 128 bits of hashes stand for a key.
PLACES = """
    SELECT row, place.file AS file, place."offset" AS "offset", place.size AS size FROM kept JOIN (
        SELECT hash, other, arg_min({'file': file, 'offset': "offset", 'size': size}, file) AS place
        FROM images GROUP BY hash, other
    ) USING (hash, other) ORDER BY row
"""
PLACE_ROWS = pa.schema({"row": pa.int64(), "file": pa.int32(), "offset": pa.int64(), "size": pa.int64()})


def image_shards(config: TrainConfig) -> ShardList | None:
    """Return the files of train.pool, sorted by name; None where it is unset and the matched pool holds the images.

    Raises UserError where none of them holds images.
    """
    images = config.pool.as_pool()
    if images is None:
        return None
    shards = pool.list_shards(images, setting="train.pool")
    first = shards[0]
    if not format_of(first.name).is_table:
        return shards
    if not pool.read_shard(first, pool.options_of(images, first.name), needs_texts=False).holds_images:
        raise UserError(f"train.pool: {shards[0].name} holds no images; name tars or tables that do (image_field)")
    return shards


def require_images(config: TrainConfig, run_dir: Path, shards: Sequence[Shard]) -> None:
    """Raise UserError where the matched pool is of tables without images, and train.pool is unset."""
    if config.pool.as_pool() is None and not pool.holds_images(run_dir, shards):
        raise UserError(
            "train.pool is unset, and the matched pool is of tables without images; name the tars that were "
            'downloaded from it: train.pool.path = "FOLDER", train.pool.key = "json:uid"; or set pool.image_field'
        )


def join_images(run: Run, shards: Sequence[Shard], images: Sequence[Shard]) -> None:
    """RUN/train/join/places of all `shards` of the matched pool, from the tars `images`."""
    folder = layout.join_dir(run.dir)
    config = run.section(TrainConfig).pool.as_pool()
    assert config is not None
    kept_by = {"curate": artifacts.require_manifest(run.dir, "curate")["digest"]}
    work = None
    if run.section(TrainConfig).curation == "online":
        work = online_work(run)
        kept_by["curation"] = "online"

    def map_units(work: Callable[[Shard], Report], units: Sequence[Shard], label: str, key: Any) -> None:
        run.executor.map(work, units, label=label, done_dir=layout.done_dir(folder, label), key=key)

    map_units(functools.partial(_write_images, config=config, folder=folder), images, "images", config.identity)
    map_units(functools.partial(_write_kept, run_dir=run.dir, folder=folder, work=work), shards, "kept", kept_by)
    tars = {tar.name: tar.fingerprint for tar in images}
    join = functools.partial(_join, folder=folder, tars=list(tars), shards=[shard.name for shard in shards])
    unit = Shard(name="all", path="")
    map_units(join, [unit], "places", {**kept_by, "images": tars, "shards": len(shards), **config.identity})
    outputs = [layout.image_places(run.dir, shard.name) for shard in shards]
    for label, units in {"images": images, "kept": shards, "places": [unit]}.items():
        outputs += [layout.marker(folder, unit.name, label) for unit in units]
        outputs += [_path(folder, label, unit.name) for unit in units if label != "places"]
    remove_stale(folder, outputs)


def _path(folder: Path, part: str, name: str) -> Path:
    return folder / part / f"{name}.parquet"


def _write_images(tar: Shard, *, config: PoolConfig, folder: Path) -> Report:
    """Write the keys of a tar and where their images are."""
    table = pool.read_shard(tar, pool.options_of(config, tar.name), needs_texts=False).images
    artifacts.write_table(_path(folder, "images", tar.name), table, schemas.POOL_IMAGES)
    return {"pairs": len(table)}


def _write_kept(shard: Shard, *, run_dir: Path, folder: Path, work: CurateWork | None) -> Report:
    """Write the kept keys of a shard; with `work` those that some epoch may keep."""
    if work is None:
        keys = read_curated(run_dir, shard, ["key"])["key"].unique()
    else:
        keys = work.valid_keys(shard.name)
    artifacts.write_table(_path(folder, "kept", shard.name), pa.table({"key": keys}), schemas.POOL_KEYS)
    return {"pairs": len(keys)}


def _join(unit: Shard, *, folder: Path, tars: Sequence[str], shards: Sequence[str]) -> Report:
    """Write RUN/train/join/places of all shards."""
    with open_database(folder / ".spilled") as database:
        hashes = "hash UBIGINT, other UBIGINT"
        database.execute(f'CREATE TABLE images ({hashes}, file INTEGER, "offset" BIGINT, size BIGINT)')
        database.execute(f"CREATE TABLE kept ({hashes}, row BIGINT)")
        for number, tar in enumerate(tars):
            table = artifacts.read_table(_path(folder, "images", tar), schemas.POOL_IMAGES)
            columns = {"file": np.full(len(table), number, np.int32), "offset": table["offset"], "size": table["size"]}
            database.from_arrow(pa.table({**_hashes(table["key"]), **columns})).insert_into("images")
        num_kept = 0
        for name in shards:
            keys = artifacts.read_table(_path(folder, "kept", name), schemas.POOL_KEYS)["key"]
            rows = np.arange(num_kept, num_kept + len(keys))
            database.from_arrow(pa.table({**_hashes(keys), "row": rows})).insert_into("kept")
            num_kept += len(keys)
        batches = iter(database.sql(PLACES).to_arrow_reader(BATCH_ROWS))
        start = 0
        buffer = PLACE_ROWS.empty_table()
        for name in shards:
            keys = artifacts.read_table(_path(folder, "kept", name), schemas.POOL_KEYS)["key"]
            stop = start + len(keys)
            while not len(buffer) or buffer["row"][-1].as_py() < stop:
                batch = next(batches, None)
                if batch is None:
                    break
                buffer = pa.concat_tables([buffer, pa.Table.from_batches([batch]).cast(PLACE_ROWS)])
            num_rows = int(np.searchsorted(buffer["row"].to_numpy(), stop))
            shard_rows = buffer.slice(0, num_rows)
            buffer = buffer.slice(num_rows)
            places = {
                "key": keys.take(pa.array(shard_rows["row"].to_numpy() - start)),
                "file": names_of(shard_rows["file"].to_numpy(), tars),
                "offset": shard_rows["offset"],
                "size": shard_rows["size"],
            }
            artifacts.write_table(_path(folder, "places", name), pa.table(places), schemas.IMAGE_PLACES)
            start = stop
    return {"pairs": num_kept}


def _hashes(keys: pa.ChunkedArray) -> dict[str, np.ndarray]:
    return dict(zip(("hash", "other"), hash_pairs(keys), strict=True))


def read_joined_index(run_dir: Path, tar: Shard) -> pa.Table:
    """Read where the images of a file of train.pool are."""
    return artifacts.read_table(_path(layout.join_dir(run_dir), "images", tar.name), schemas.POOL_IMAGES)


def read_places(run_dir: Path, shard: Shard) -> pa.Table:
    """Read key, file (a tar's name), offset and size of a shard's kept keys that have an image."""
    return artifacts.read_table(layout.image_places(run_dir, shard.name), schemas.IMAGE_PLACES)


def file_positions(places: pa.Table, tars: Sequence[Shard]) -> np.ndarray:
    """Return (n,) int64: the position in `tars` of each place's file."""
    if not len(places):
        return np.zeros(0, np.int64)
    position_of = {tar.name: position for position, tar in enumerate(tars)}
    codes = places["file"].combine_chunks()
    positions = np.array([position_of[name] for name in codes.dictionary.to_pylist()], np.int64)
    of_place: np.ndarray = positions[codes.indices.to_numpy(zero_copy_only=False)]
    return of_place
