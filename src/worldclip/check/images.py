"""Scan every image of a source once and write a row of facts and hashes for each.

A source is a shard of a pool, any tar, or a folder of image files.  Later rules and radii work on these rows, so a
changed threshold decodes nothing again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.check.config import CheckConfig
from worldclip.check.context import CheckContext
from worldclip.check.hashing import HASH_KIND, IMAGES_AT, HashKind, ImageFacts, scan_images
from worldclip.contracts import layout
from worldclip.contracts.schemas import IMAGE_HASHES
from worldclip.core.artifacts import read_table, remove, write_table, write_tables
from worldclip.core.console import say
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Executor, Report, Shard, add_counts, reads_input
from worldclip.core.image_names import SUFFIXES, image_files
from worldclip.core.inputs import is_remote
from worldclip.core.job import RunLock
from worldclip.core.preflight import missing_packages
from worldclip.core.regular_file import read_regular
from worldclip.model import decode
from worldclip.model.formats.interface import TORCH
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.parquet import PARQUET
from worldclip.pool.read import is_table, read_images

FILES_AT_ONCE = 1000  # image files per unit of work
BY_ROW = PoolConfig(key="row")  # keys of tables outside of a pool
COUNTS = ("images", "undecodable", "nearly_blank")


@reads_input
def scan_pool_shard(shard: Shard, *, context: CheckContext) -> Report:
    """Write images/<shard>.parquet, one row per image in the pool's index, named by the pair's key."""
    return _scan_tar(shard, context.pool, context.table_path("images", shard), context.kind)


def hash_images(source: Path, out: Path, executor: Executor, *, config: CheckConfig | None = None) -> dict[str, int]:
    """Write a Parquet file `out` with a row per image of `source`: a .tar, a .parquet, or a folder of image files, tars
    or Parquet files.

    Return the counts images, undecodable, nearly_blank.  Raises UserError if there is no image or `out` cannot be
    written, StageFailed if tars are damaged.  An interrupted call resumes.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the file to write (.parquet)")
    kind = HashKind.of(config or CheckConfig())
    problems = list(missing_packages("pool hash", ("PIL",), extra="pool"))
    if kind.model is not None:
        problems += missing_packages('hash = "embedding"', TORCH.modules, extra=TORCH.extra)
    if problems:
        raise UserError(problems)
    units = source_units(source)
    kind.require_model()
    with RunLock(_parts_folder(out)):
        scan = functools.partial(_scan_unit, kind=kind)
        place = str(source.resolve())
        return hash_units(units, scan, out, executor, key={"source": place}, kind=kind, images_at=place)


def _parts_folder(out: Path) -> Path:
    """Return the folder of what is finished of `out`."""
    return out.with_name(f".{out.name}.parts")


def hash_units(
    units: Sequence[Shard],
    scan: Callable[..., Report],
    out: Path,
    executor: Executor,
    *,
    key: Any,
    kind: HashKind,
    images_at: str = "",
) -> dict[str, int]:
    """Call scan(unit, folder=...) for each unit, then write the rows of all units as one file; return COUNTS.

    images_at: folder or tar of the images, which the file records; empty for images that are found by their names.
    """
    parts = _parts_folder(out)
    reports = executor.map(
        functools.partial(scan, folder=parts),
        units,
        label="hash",
        done_dir=layout.done_dir(parts),
        key={"key": key, "hash": kind.name, "decoder": decode.VERSION},
    )
    write_tables(out, (read_hashes(parts / f"{unit.name}.parquet", kind) for unit in units), kind.schema(images_at))
    counts = add_counts(reports, COUNTS)
    remove(parts)
    return counts


def read_hashes(path: Path, kind: HashKind, columns: list[str] | None = None) -> pa.Table:
    """Read a file of hashes.  Raises BadShard for any other file, UserError for hashes of another kind."""
    table = read_table(path, IMAGE_HASHES, columns)
    kind_of_file = (pq.read_schema(path).metadata or {}).get(HASH_KIND, b"?").decode()
    if kind_of_file != kind.name:
        raise UserError(
            f"{path}: hashes of kind {kind_of_file!r}, but the check compares {kind.name!r}; hash its images again "
            "with the same hash and embedding_model"
        )
    return table


def images_at(path: Path) -> str | None:
    """Return where the images of a file of hashes are, as the file says; None where it does not."""
    place = (pq.read_schema(path).metadata or {}).get(IMAGES_AT)
    return place.decode("utf-8", "replace") if place else None


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
    shard = Shard(name=path.name, path=str(path))
    try:
        return PARQUET.holds_images(shard, BY_ROW)
    except BadShard:
        return True


@reads_input
def _scan_unit(unit: Shard, *, folder: Path, kind: HashKind) -> Report:
    out = folder / f"{unit.name}.parquet"
    if "files" not in unit.fingerprint:
        return _scan_tar(unit, BY_ROW if is_table(unit.name) else PoolConfig(), out, kind)
    names, sizes, _ = zip(*unit.fingerprint["files"], strict=True)
    paths = [Path(unit.path) / name for name in names]
    places = {
        "name": pa.array(names, pa.string()),
        "file": pa.array([str(path.resolve()) for path in paths], pa.string()),
        "offset": pa.array([0] * len(names), pa.int64()),
        "size": pa.array(sizes, pa.int64()),
    }
    return scan_to_file(out, places, _read_files(paths), kind)


def _read_files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield read_regular(path)
        except OSError as error:
            raise BadShard(f"{path}: cannot be read ({error.strerror})") from error


def _scan_tar(shard: Shard, pool: PoolConfig, out: Path, kind: HashKind) -> Report:
    index, contents = read_images(shard, pool)
    file = shard.path if is_remote(shard.path) else str(Path(shard.path).resolve())
    places = {
        "name": index["key"],
        "file": pa.array([file] * len(index), pa.string()),
        "offset": index["offset"],
        "size": index["size"],
    }
    return scan_to_file(out, places, contents, kind)


def scan_to_file(out: Path, places: Mapping[str, pa.Array], contents: Iterable[bytes], kind: HashKind) -> Report:
    """Scan images and write a row of IMAGE_HASHES for each; places: its columns name, file, offset, size.

    Return the shard's report: pairs and COUNTS.
    """
    facts = list(scan_images(contents, kind))
    columns = dict(places)
    for field in fields(ImageFacts):
        values = [getattr(fact, field.name) for fact in facts]
        columns[field.name] = pa.array(values, IMAGE_HASHES.field(field.name).type)
    table = pa.table(columns)
    write_table(out, table, kind.schema())
    undecodable = table.num_rows - table["error"].null_count
    return {
        "pairs": table.num_rows,
        "images": table.num_rows,
        "undecodable": undecodable,
        "nearly_blank": table["hash"].null_count - undecodable,
    }
