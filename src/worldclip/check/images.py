"""Scan every image of a source once and keep a row of IMAGE_HASHES for each.

A source is a shard of a pool, a tar or Parquet file with images, a folder of image files, or a dataset of `evaluate`.
Later radii work on these rows, so another radius decodes nothing again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip import pool as pools
from worldclip.check.hashing import ImageFacts, scan_images
from worldclip.contracts.reasons import Reason
from worldclip.contracts.schemas import IMAGE_HASHES
from worldclip.core.arrow import one_array
from worldclip.core.artifacts import write_table
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Report, Shard
from worldclip.core.image_names import SUFFIXES, image_files
from worldclip.core.regular_file import read_regular
from worldclip.pool.config import PoolConfig
from worldclip.pool.read import is_table

FILES_AT_ONCE = 1000  # image files per unit of work
BY_ROW = PoolConfig(key="row")  # keys of tables outside of a pool
COUNTS = ("images", "undecodable", "nearly_blank")
NO_IMAGE, UNDECODABLE = "no_image", "undecodable"


def hashes_path(folder: Path, shard: Shard) -> Path:
    """Return the file of a shard's rows."""
    return folder / f"{shard.name}.parquet"


def scan_pool_shard(shard: Shard, *, run_dir: Path, folder: Path, model: str | None) -> Report:
    """Write a row of IMAGE_HASHES for each pair of the shard, with the rule that removes it by itself, if any.

    Rules in this order: bad_pair and no_text, as match drops them; no_image; undecodable.  Another list of keys decodes
    nothing again, so pairs that the lists exclude have a row too.
    """
    keys, reasons = _pairs(run_dir, shard)
    images = pools.read_images(run_dir, shard.name, pools.EVERY_KEY)
    places = pools.image_places(shard, images)
    facts = _facts(pools.read_contents(places), model)
    image_of_key = pc.index_in(keys, one_array(images["key"]).cast(keys.type))
    by_key = facts.take(image_of_key)  # null rows for pairs without an image
    rule = np.full(len(keys), None, object)
    rule[by_key["error"].is_valid().to_numpy()] = UNDECODABLE
    rule[image_of_key.is_null().to_numpy(zero_copy_only=False)] = NO_IMAGE
    for reason in (Reason.NO_TEXT, Reason.BAD_PAIR):
        rule[reasons == reason] = reason.label  # written last: the first rule that applies
    places = places.take(image_of_key)
    columns = {"key": keys, "rule": pa.array(rule, pa.string())}
    columns |= {name: places[name] for name in ("file", "offset", "size")}
    _write(hashes_path(folder, shard), columns, by_key)
    return {"pairs": len(keys), **_count(facts)}


def _pairs(run_dir: Path, shard: Shard) -> tuple[pa.Array, np.ndarray]:
    """Return each key in order, and the latest reason that any of its texts reached: `kept` if one is usable.

    Repeats of a key in the shard are left out, as match leaves them out.
    """
    texts = pools.read_pairs(run_dir, shard.name, pools.EVERY_KEY)
    rows = np.flatnonzero(texts.reason != Reason.DUPLICATE)
    keys = texts.key.take(pa.array(rows)).dictionary_encode()  # in the order of first rows
    reasons = np.zeros(len(keys.dictionary), np.int8)
    np.maximum.at(reasons, keys.indices.to_numpy(zero_copy_only=False), texts.reason[rows])
    return keys.dictionary, reasons


def _facts(contents: Iterable[bytes], model: str | None) -> pa.Table:
    """Return the columns of ImageFacts, a row per image."""
    facts = list(scan_images(contents, model))
    columns = {}
    for field in fields(ImageFacts):
        values = [getattr(fact, field.name) for fact in facts]
        columns[field.name] = pa.array(values, IMAGE_HASHES.field(field.name).type)
    return pa.table(columns)


def _write(path: Path, columns: Mapping[str, Any], facts: pa.Table) -> None:
    facts_by_name = dict(zip(facts.column_names, facts.columns, strict=True))
    write_table(path, pa.table({**columns, **facts_by_name}), IMAGE_HASHES)


def _count(facts: pa.Table) -> Report:
    """Return COUNTS."""
    undecodable = len(facts) - facts["error"].null_count
    return {
        "images": len(facts),
        "undecodable": undecodable,
        "nearly_blank": facts["hash"].null_count - undecodable,
    }


# --- images outside of a pool -----------------------------------------------------------------------------------------


def source_units(source: Path) -> list[Shard]:
    """Return one unit per tar or Parquet file with images, and one per FILES_AT_ONCE image files, by name.

    The fingerprint of a group of files is {"files": [[name, bytes, mtime in ns], ...]}.  Raises UserError if there is
    none of them.
    """
    if source.is_file() and source.suffix in (".tar", ".parquet"):
        if source.suffix == ".parquet" and not _is_table_of_images(source):
            raise UserError(f"{source} has no column of images (binary, or a struct with bytes); give one that has")
        return [Shard.of_file(source.name, str(source))]
    if not source.is_dir():
        raise UserError(
            f"{source} is no folder, .tar or .parquet; give a folder of images, tars or Parquet files, or one of these"
        )
    paths = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    archives = [path for path in paths if path.suffix == ".tar" or _is_table_of_images(path)]
    units = [Shard.of_file(path.relative_to(source).as_posix(), str(path)) for path in archives]
    files, others = image_files(sorted({*paths} - {*archives}))
    if others:
        _say_left_out(source, others)
    for start in range(0, len(files), FILES_AT_ONCE):
        group = [(path.relative_to(source).as_posix(), path.stat()) for path in files[start : start + FILES_AT_ONCE]]
        stamps = {"files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in group]}
        units.append(Shard(name=f"files_{start // FILES_AT_ONCE:06}", path=str(source), fingerprint=stamps))
    if not units:
        raise UserError(f"{source} holds no tar and no image ({', '.join(SUFFIXES)}); unpack compressed tars first")
    return units


@functools.cache  # a folder is listed several times
def _say_left_out(source: Path, others: str) -> None:
    say("images", f"{source}: left out {others}")


def _is_table_of_images(path: Path) -> bool:
    """Return whether a Parquet file holds images; a damaged one counts, and is reported when it is read."""
    if not is_table(str(path)):
        return False
    try:
        return pools.read_shard(Shard(name=path.name, path=str(path)), BY_ROW, needs_texts=False).holds_images
    except BadShard:
        return True


def scan_unit(unit: Shard, *, folder: Path, model: str | None) -> Report:
    """Write a row of IMAGE_HASHES for each image of a unit of `source_units`."""
    out = hashes_path(folder, unit)
    if "files" in unit.fingerprint:
        names, sizes, _ = zip(*unit.fingerprint["files"], strict=True)
        paths = [Path(unit.path) / name for name in names]
        places = {"key": names, "file": [str(path.resolve()) for path in paths], "size": sizes}
        return scan_images_of_set(out, {**places, "offset": [0] * len(paths)}, _read_files(paths), model)
    images = pools.read_shard(unit, BY_ROW if is_table(unit.name) else PoolConfig(), needs_texts=False).images
    places = {name: images[name] for name in ("key", "offset", "size")}
    file = str(Path(unit.path).resolve())
    contents = pools.read_contents(pools.image_places(unit, images))
    return scan_images_of_set(out, {**places, "file": [file] * len(images)}, contents, model)


def _read_files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield read_regular(path)
        except OSError as error:
            raise BadShard(f"{path}: cannot be read ({error.strerror})") from error


def scan_images_of_set(out: Path, places: Mapping[str, Any], contents: Iterable[bytes], model: str | None) -> Report:
    """Write a row of IMAGE_HASHES for each image.  places: its columns key, file, offset and size."""
    facts = _facts(contents, model)
    _write(out, {"rule": pa.nulls(len(facts), pa.string()), **places}, facts)
    return {"pairs": len(facts), **_count(facts)}
