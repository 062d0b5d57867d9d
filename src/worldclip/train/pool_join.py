"""Where the kept pairs' images are, when the training pool is another one than the matched pool: a join by key.

The matched pool may hold texts alone (Parquet of URLs); `train.pool` names the tars that a downloader made of it.

    RUN/train/join/images/<tar>.arrow     the tar's keys and where their images are
    RUN/train/join/kept/<shard>.arrow     the kept keys of a shard of the matched pool
    RUN/train/join/places/<shard>.parquet key, file, offset, size of each kept key that has an image

Of a key that several tars hold, the image in the first tar, by name, is taken; a kept key without an image is counted
(`no_image`) and absent from the plan.  Memory is bounded: keys meet by ranges of their hashes (core/shuffle.py).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from worldclip import pool
from worldclip.config import Recipe
from worldclip.core import artifacts, shuffle
from worldclip.core.arrow import names_of
from worldclip.core.errors import UserError
from worldclip.core.execute import Executor, Report, Shard, repeatable
from worldclip.core.job import remove_stale
from worldclip.core.keys import KeyTable
from worldclip.curate import read_curated
from worldclip.pool.config import PoolConfig


def image_shards(recipe: Recipe) -> list[Shard] | None:
    """The tars of train.pool, sorted by name; None where it is unset and the matched pool holds the images.

    Raises UserError where it holds no tar.
    """
    config = recipe.train.pool.as_pool()
    return None if config is None else pool.list_shards(config, setting="train.pool")


def require_images(recipe: Recipe, shards: Sequence[Shard]) -> None:
    """Raises UserError where the matched pool is of tables, which hold no images, and train.pool is unset."""
    if recipe.train.pool.as_pool() is None and not any(shard.name.endswith(".tar") for shard in shards):
        raise UserError(
            "train.pool is unset, and the matched pool is of tables, which hold no images; name the tars that were "
            'downloaded from it: train.pool.path = "FOLDER", train.pool.key = "json:uid"'
        )


def join_images(
    recipe: Recipe, run_dir: Path, shards: Sequence[Shard], images: Sequence[Shard], executor: Executor
) -> None:
    """RUN/train/join/places of all `shards` of the matched pool, from the tars `images`."""
    folder, config = run_dir / "train" / "join", recipe.train.pool.as_pool()
    assert config is not None
    curated = artifacts.require_manifest(run_dir, "curate")["digest"]
    write_images = functools.partial(_write_images, config=config, folder=folder)
    index = executor.map(
        write_images, images, label="images", done_dir=folder / "done" / "images", key={"key": config.key}
    )
    write_kept = functools.partial(_write_kept, run_dir=run_dir, folder=folder)
    kept = executor.map(write_kept, shards, label="kept", done_dir=folder / "done" / "kept", key={"curate": curated})
    of = shuffle.num_ranges(sum(report["pairs"] for report in (*index, *kept)))
    image_paths, kept_paths = ([_path(folder, part, each) for each in of_part] for part, of_part in
                               (("images", images), ("kept", shards)))  # fmt: skip
    ranges = [Shard(name=f"{number:06}", path="") for number in range(of)]
    inputs = {"curate": curated, "images": {tar.name: tar.fingerprint for tar in images}, "key": config.key, "of": of}
    executor.map(
        functools.partial(_find_places, images=image_paths, kept=kept_paths, of=of, folder=folder),
        ranges,
        label="join",
        done_dir=folder / "done" / "ranges",
        key=inputs,
    )
    range_paths = [_path(folder, "ranges", unit) for unit in ranges]
    names = [tar.name for tar in images]
    executor.map(
        functools.partial(_write_places, order=[s.name for s in shards], ranges=range_paths, tars=names, folder=folder),
        shards,
        label="places",
        done_dir=folder / "done" / "places",
        key=inputs,
    )
    places = [places_path(run_dir, shard) for shard in shards]
    units = {"images": images, "kept": shards, "ranges": ranges, "places": shards}
    markers = [folder / "done" / part / f"{each.name}.json" for part, of_part in units.items() for each in of_part]
    remove_stale(folder, [*image_paths, *kept_paths, *range_paths, *places, *markers])


def read_places(run_dir: Path, shard: Shard) -> pa.Table:
    """Rows of key, file (a tar's name), offset, size of a shard's kept keys that have an image."""
    return artifacts.read_table(places_path(run_dir, shard), artifacts.IMAGE_PLACES)


def places_path(run_dir: Path, shard: Shard) -> Path:
    return run_dir / "train" / "join" / "places" / f"{shard.name}.parquet"


def _path(folder: Path, part: str, shard: Shard) -> Path:
    return folder / part / f"{shard.name}.arrow"


@repeatable
def _write_images(tar: Shard, *, config: PoolConfig, folder: Path) -> Report:
    table, _ = pool.index_of(tar, config)
    shuffle.write_rows(_path(folder, "images", tar), table.select(["key", "offset", "size"]))
    return {"pairs": len(table)}


@repeatable
def _write_kept(shard: Shard, *, run_dir: Path, folder: Path) -> Report:
    keys = read_curated(run_dir, shard, ["key"])["key"].unique()
    shuffle.write_rows(_path(folder, "kept", shard), pa.table({"key": keys}))
    return {"pairs": len(keys)}


@repeatable
def _find_places(unit: Shard, *, images: Sequence[Path], kept: Sequence[Path], of: int, folder: Path) -> Report:
    """The kept keys of one range of hashes that have an image: key, shard, file (positions), offset, size."""
    image, wanted = (shuffle.read_range(paths, int(unit.name), of) for paths in (images, kept))
    place = KeyTable(image["key"]).find(wanted["key"])  # of equal keys the first: the tars stand in their order
    has_image = place >= 0
    rows = image.take(pa.array(place[has_image]))
    found = wanted.filter(pa.array(has_image)).select(["key", "shard"])
    for name, source in (("file", "shard"), ("offset", "offset"), ("size", "size")):
        found = found.append_column(name, rows[source])
    shuffle.write_found(_path(folder, "ranges", unit), found)
    return {"pairs": len(wanted)}


@repeatable
def _write_places(
    shard: Shard, *, order: Sequence[str], ranges: Sequence[Path], tars: Sequence[str], folder: Path
) -> Report:
    position = order.index(shard.name)
    found = shuffle.read_found(ranges, position, position + 1)
    table = found.set_column(found.schema.get_field_index("file"), "file", names_of(found["file"].to_numpy(), tars))
    artifacts.write_table(folder / "places" / f"{shard.name}.parquet", table, artifacts.IMAGE_PLACES)
    return {"pairs": len(table)}


def file_positions(places: pa.Table, tars: Sequence[Shard]) -> np.ndarray:
    """(n,) int64: the position among `tars` of each place's file."""
    position = {tar.name: number for number, tar in enumerate(tars)}
    codes = places["file"].combine_chunks()
    of_code = np.array([position[name] for name in codes.dictionary.to_pylist()], np.int64)
    return of_code[codes.indices.to_numpy(zero_copy_only=False)] if len(codes) else np.zeros(0, np.int64)
