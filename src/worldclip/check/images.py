"""Scan every image of a source once and keep a row of IMAGE_HASHES for each.

A source is a shard of a pool, a tar or Parquet file with images, a folder of image files, or a dataset of `evaluate`.
Later radii work on these rows, so another radius decodes nothing again.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.hashing import EmbeddingModel, ImageFacts, scan_images
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import IMAGE_HASHES
from worldclip.core.arrow import one_array
from worldclip.core.artifacts import write_table
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.image_names import SUFFIXES, readable_suffixes
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.picture_folder import Listing, files_of_group, fingerprint_of_group, group_files, list_folder
from worldclip.pool.read import is_table

BY_ROW = PoolConfig(key="row")  # keys of tables outside of a pool
COUNTS = ("images", "undecodable", "nearly_blank")
NO_IMAGE, UNDECODABLE = "no_image", "undecodable"

_say_once = functools.cache(say)  # a folder is listed several times


def hashes_path(folder: Path, shard: Shard) -> Path:
    """Return the file of a shard's rows."""
    return folder / f"{shard.name}.parquet"


def scan_pool_shard(shard: Shard, *, run_dir: Path, folder: Path, model: EmbeddingModel | None) -> Report:
    """Write a row of IMAGE_HASHES for each pair of the shard, with the rule that removes it by itself, if any.

    Rules in this order: bad_pair and no_text, as match drops them; no_image; undecodable.  Another list of keys decodes
    nothing again, so pairs that the lists exclude have a row too.
    """
    texts = pools.read_pairs(run_dir, shard.name, pools.EVERY_KEY)
    text_rows = np.flatnonzero(texts.reason != Reason.DUPLICATE)  # match leaves repeats of a key out, too
    encoded = texts.key.take(pa.array(text_rows)).dictionary_encode()
    keys = encoded.dictionary  # in the order of first rows
    reasons = np.zeros(len(keys), np.int8)  # the latest that any text of a key reached: `kept` if one is usable
    np.maximum.at(reasons, encoded.indices.to_numpy(zero_copy_only=False), texts.reason[text_rows])
    places = pools.image_places(shard, pools.read_images(run_dir, shard.name, pools.EVERY_KEY))
    scanned, counts = _scan(places, pools.read_contents(places), model)
    image_of_key = pc.index_in(keys, one_array(scanned["key"]).cast(keys.type))
    rows = scanned.drop_columns(["key"]).take(image_of_key)  # null rows for pairs without an image
    rule = np.full(len(keys), None, object)
    rule[rows["error"].is_valid().to_numpy()] = UNDECODABLE
    rule[image_of_key.is_null().to_numpy(zero_copy_only=False)] = NO_IMAGE
    for reason in (Reason.NO_TEXT, Reason.BAD_PAIR):
        rule[reasons == reason] = reason.label  # written last: the first rule that applies
    rows = rows.append_column("key", keys).append_column("rule", pa.array(rule, pa.string()))
    write_table(hashes_path(folder, shard), rows, IMAGE_HASHES)
    return {"pairs": len(keys), **counts}


def _scan(places: pa.Table, contents: Iterable[bytes], model: EmbeddingModel | None) -> tuple[pa.Table, Report]:
    """Return the places of images, key, file, offset and size, with the columns of their ImageFacts, and COUNTS."""
    facts = list(scan_images(contents, model))
    for field in fields(ImageFacts):
        values = [getattr(fact, field.name) for fact in facts]
        places = places.append_column(field.name, pa.array(values, IMAGE_HASHES.field(field.name).type))
    undecodable = len(places) - places["error"].null_count
    nearly_blank = places["hash"].null_count - undecodable
    return places, {"images": len(places), "undecodable": undecodable, "nearly_blank": nearly_blank}


# --- images outside of a pool -----------------------------------------------------------------------------------------


def source_units(
    source: Path, earlier_groups: Mapping[str, Sequence[str]] = {}, listing: Listing | None = None
) -> list[Shard]:
    """Return one unit per tar or Parquet file with images, and one per group of image files.

    source: a folder of them, or one.  earlier_groups: see group_files.  listing: of the folder, if it is known.  Raises
    UserError for a source without images.
    """
    root = source if source.is_dir() else source.parent
    if not source.is_dir():
        listing = Listing(root=root, others=[source.name])
        if source.name.lower().endswith(readable_suffixes()):
            status = source.stat()
            listing = Listing(root=root, pictures=[(source.name, status.st_size, status.st_mtime_ns)])
    elif listing is None:
        listing = list_folder(source)
    archives = [name for name in listing.others if name.endswith((".tar", *PARQUET.suffixes))]
    archives = [name for name in archives if name.endswith(".tar") or _is_table_of_images(root / name)]
    units = [Shard.of_file(name, str(root / name)) for name in archives]
    for group, stamps in group_files(listing.pictures, earlier_groups).items():
        units.append(Shard(name=group, path=str(root), fingerprint=fingerprint_of_group(stamps)))
    if not units:
        raise UserError(
            f"{source} holds no tar and no image ({', '.join(SUFFIXES)}), and has no column of images; unpack "
            "compressed tars first"
        )
    for line in listing.remarks([name for name in listing.others if name not in archives]):
        _say_once("images", line)
    return units


def _is_table_of_images(path: Path) -> bool:
    """Return whether a table holds images; a damaged one counts, and is reported when it is read."""
    try:
        return pools.read_shard(Shard(name=path.name, path=str(path)), BY_ROW, needs_texts=False).holds_images
    except BadShard:
        return True


def places_of(unit: Shard) -> pa.Table:
    """Return key, file, offset and size of the images of a unit of `source_units`."""
    if "files" in unit.fingerprint:
        names, sizes, _ = zip(*files_of_group(unit.fingerprint), strict=True)
        root = os.path.abspath(unit.path)
        files = [f"{root}/{name}" for name in names]
        return pa.table({"key": names, "file": files, "offset": np.zeros(len(names), np.int64), "size": sizes})
    options = BY_ROW if is_table(unit.name) else PoolConfig()
    return pools.image_places(unit, pools.read_shard(unit, options, needs_texts=False).images)


def scan_unit(unit: Shard, *, folder: Path, model: EmbeddingModel | None) -> Report:
    """Write a row of IMAGE_HASHES for each image of a unit of `source_units`."""
    places = places_of(unit)
    return scan_images_of_set(hashes_path(folder, unit), places, pools.read_contents(places), model)


def scan_images_of_set(out: Path, places: pa.Table, contents: Iterable[bytes], model: EmbeddingModel | None) -> Report:
    """Write a row of IMAGE_HASHES for each image, whose places are key, file, offset and size."""
    scanned, counts = _scan(places, contents, model)
    write_table(out, scanned.append_column("rule", pa.nulls(len(scanned), pa.string())), IMAGE_HASHES)
    return {"pairs": len(scanned), **counts}
