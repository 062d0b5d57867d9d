"""Find the images of the kept pairs when the training pool is not the matched pool: a join by key.

The matched pool may hold only texts (Parquet of URLs); `train.pool` names the tars that a downloader made from it.

    RUN/train/join/images/<tar>.arrow     the tar's keys and where their images are
    RUN/train/join/kept/<shard>.arrow     the kept keys of a shard of the matched pool; under online curation, the keys
                                          that any epoch may keep
    RUN/train/join/ranges/<n>.arrow       the places of a range of hashes
    RUN/train/join/<part>_groups/<n>.arrow  of many files of a part: those of a group as one
    RUN/train/join/places/<shard>.parquet key, file, offset, size of each kept key that has an image

If several tars hold a key, the image in the first tar by name is used.  A kept key without an image is counted
(`no_image`) and left out of the plan.  Memory is bounded: the join runs by ranges of hashes (core/shuffle.py).
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
from worldclip.core import artifacts, shuffle
from worldclip.core.arrow import names_of
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard, reads_input
from worldclip.core.execute.shard_list import ShardList
from worldclip.core.job import Run, remove_stale
from worldclip.core.keys import KeyTable
from worldclip.curate import CurateWork, online_work, read_curated
from worldclip.pool.config import PoolConfig
from worldclip.train.config import TrainConfig

# Shards whose places one task of a large pool writes: 2 million rows of 60 bytes in memory.
SHARDS_PER_GROUP = 32


def image_shards(config: TrainConfig) -> ShardList | None:
    """Return the files of train.pool, sorted by name; None where it is unset and the matched pool holds the images.

    Raises UserError where none of them holds images.
    """
    images = config.pool.as_pool()
    if images is None:
        return None
    shards = pool.list_shards(images, setting="train.pool")
    if not pool.holds_images(shards, images):
        raise UserError(f"train.pool: {shards[0].name} holds no images; name tars, or Parquet files with images")
    return shards


def require_images(config: TrainConfig, matched: PoolConfig, shards: Sequence[Shard]) -> None:
    """Raise UserError where the matched pool is of tables without images, and train.pool is unset."""
    if config.pool.as_pool() is None and not pool.holds_images(shards, matched):
        raise UserError(
            "train.pool is unset, and the matched pool is of tables without images; name the tars that were "
            'downloaded from it: train.pool.path = "FOLDER", train.pool.key = "json:uid"'
        )


def join_images(run: Run, shards: Sequence[Shard], images: Sequence[Shard]) -> None:
    """RUN/train/join/places of all `shards` of the matched pool, from the tars `images`."""
    folder, config = layout.join_dir(run.dir), run.section(TrainConfig).pool.as_pool()
    run_dir, executor = run.dir, run.executor
    assert config is not None
    kept_by = {"curate": artifacts.require_manifest(run_dir, "curate")["digest"]}
    work = None
    if run.section(TrainConfig).curation == "online":
        work = online_work(run)
        kept_by["curation"] = "online"

    def map_units(work: Callable[[Shard], Report], units: Sequence[Shard], label: str, key: Any) -> Sequence[Report]:
        return executor.map(work, units, label=label, done_dir=layout.done_dir(folder, label), key=key)

    def merge(units: Sequence[Shard], label: str, num_readers: int, num_rows: int, key: Any, **options: Any) -> None:
        """Merge the files of `units`, RUN/train/join/<label>, in groups where they are many; note what is read."""
        groups = shuffle.merge_groups(
            units,
            folder / label,
            executor,
            num_readers=num_readers,
            num_rows=num_rows,
            label=f"{label} in groups",
            out=folder / f"{label}_groups",
            done_dir=layout.done_dir(folder, f"{label}_groups"),
            key=key,
            **options,
        )
        files[label] = [Path(group.path) for group in groups] or [_path(folder, label, unit) for unit in units]
        made[label], made[f"{label}_groups"] = units, groups

    files: dict[str, list[Path]] = {}  # input files by label
    made: dict[str, Sequence[Shard]] = {}  # units of work by label
    write_images = functools.partial(_write_images, config=config, folder=folder)
    write_kept = functools.partial(_write_kept, run_dir=run_dir, folder=folder, work=work)
    num_images = sum(report["pairs"] for report in map_units(write_images, images, "images", config.identity))
    num_kept = sum(report["pairs"] for report in map_units(write_kept, shards, "kept", kept_by))
    num_ranges = shuffle.num_ranges(num_images + num_kept)
    merge(images, "images", num_ranges, num_images, config.identity)
    merge(shards, "kept", num_ranges, num_kept, kept_by)
    ranges = [Shard(name=f"{number:06}", path="") for number in range(num_ranges)]
    find_places = functools.partial(
        _find_places, images=files["images"], kept=files["kept"], num_ranges=num_ranges, folder=folder
    )
    tars = {tar.name: tar.fingerprint for tar in images}
    inputs = {**kept_by, "images": tars, "of": num_ranges, **config.identity}
    map_units(find_places, ranges, "ranges", inputs)
    writers = _groups_of(shards, num_ranges)
    merge(ranges, "ranges", len(writers), num_kept, inputs, num_shards=len(shards))
    write_places = functools.partial(
        _write_places, ranges=files["ranges"], tars=[tar.name for tar in images], folder=folder
    )
    map_units(write_places, writers, "places", inputs)
    made["places"] = writers
    outputs = [layout.image_places(run_dir, shard.name) for shard in shards]
    for label, units in made.items():
        outputs += [layout.marker(folder, unit.name, label) for unit in units]
        outputs += [_path(folder, label, unit) for unit in units if label != "places"]
    remove_stale(folder, outputs)


def _groups_of(shards: Sequence[Shard], num_ranges: int) -> list[Shard]:
    """Return units of work of one shard each, or of SHARDS_PER_GROUP where each would open all ranges too often."""
    size = 1 if shuffle.group_size(len(shards), num_ranges) == 1 else SHARDS_PER_GROUP
    groups = []
    for number, start in enumerate(range(0, len(shards), size)):
        names = [shard.name for shard in shards[start : start + size]]
        groups.append(Shard(name=f"{number:06}", path="", fingerprint={"first": start, "shards": names}))
    return groups


def read_places(run_dir: Path, shard: Shard) -> pa.Table:
    """Read key, file (a tar's name), offset and size of a shard's kept keys that have an image."""
    return artifacts.read_table(layout.image_places(run_dir, shard.name), schemas.IMAGE_PLACES)


def _path(folder: Path, part: str, shard: Shard) -> Path:
    return folder / part / f"{shard.name}.arrow"


@reads_input
def _write_images(tar: Shard, *, config: PoolConfig, folder: Path) -> Report:
    """Write the keys of a tar and where their images are."""
    table, _ = pool.index_of(tar, config)
    shuffle.write_rows(_path(folder, "images", tar), table.select(["key", "offset", "size"]))
    return {"pairs": len(table)}


def _write_kept(shard: Shard, *, run_dir: Path, folder: Path, work: CurateWork | None) -> Report:
    """Write the kept keys of a shard; with `work` those that any epoch may keep."""
    keys = read_curated(run_dir, shard, ["key"])["key"].unique() if work is None else work.drawable_keys(shard.name)
    shuffle.write_rows(_path(folder, "kept", shard), pa.table({"key": keys}))
    return {"pairs": len(keys)}


def _find_places(unit: Shard, *, images: Sequence[Path], kept: Sequence[Path], num_ranges: int, folder: Path) -> Report:
    """Join one range of hashes: write key, shard, file (as positions), offset, size of kept keys with an image."""
    image, wanted = (shuffle.read_range(paths, int(unit.name), num_ranges) for paths in (images, kept))
    # Of equal keys KeyTable takes the first, and rows are in the order of the tars.
    position = KeyTable(image["key"]).find(wanted["key"])
    has_image = position >= 0
    rows = image.take(pa.array(position[has_image]))
    joined = wanted.filter(pa.array(has_image)).select(["key", "shard"])
    for name, source in (("file", "shard"), ("offset", "offset"), ("size", "size")):
        joined = joined.append_column(name, rows[source])
    shuffle.write_results(_path(folder, "ranges", unit), joined)
    return {"pairs": len(wanted)}


def _write_places(group: Shard, *, ranges: Sequence[Path], tars: Sequence[str], folder: Path) -> Report:
    """Write RUN/train/join/places of a group of shards from all ranges.  tars: names of the tars."""
    first, names = group.fingerprint["first"], group.fingerprint["shards"]
    joined = shuffle.read_results(ranges, first, first + len(names))
    shard = joined["shard"].to_numpy()
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(first, first + len(names) + 1))
    for name, start, stop in zip(names, bounds[:-1], bounds[1:], strict=True):
        table = joined.take(pa.array(order[start:stop]))
        files = names_of(table["file"].to_numpy(), tars)
        table = table.set_column(table.schema.get_field_index("file"), "file", files)
        artifacts.write_table(folder / "places" / f"{name}.parquet", table, schemas.IMAGE_PLACES)
    return {"pairs": len(joined)}


def file_positions(places: pa.Table, tars: Sequence[Shard]) -> np.ndarray:
    """Return (n,) int64: the position in `tars` of each place's file."""
    if not len(places):
        return np.zeros(0, np.int64)
    position_of = {tar.name: position for position, tar in enumerate(tars)}
    codes = places["file"].combine_chunks()
    positions = np.array([position_of[name] for name in codes.dictionary.to_pylist()], np.int64)
    of_place: np.ndarray = positions[codes.indices.to_numpy(zero_copy_only=False)]
    return of_place
