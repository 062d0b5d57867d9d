"""Look at every image of a source once: a row of facts and hashes each.

A source is a pool's shard, any tar, or a folder of image files.  Whatever rules and radii come later work on these
rows, so a changed threshold decodes nothing again.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.check.config import CheckConfig
from worldclip.check.hashing import ImageFacts, look_at
from worldclip.core.artifacts import IMAGE_HASHES, digest, fingerprint, read_table, write_artifact, write_table
from worldclip.core.errors import BadShard, UserError, require
from worldclip.core.execute import Executor, Report, Shard, add_counts, repeatable
from worldclip.core.job import RunLock
from worldclip.pool.config import PoolConfig
from worldclip.pool.files import is_remote
from worldclip.pool.formats.tar import IMAGE_SUFFIXES
from worldclip.pool.read import read_images

FILES_AT_ONCE = 1000  # image files of a folder in one unit of work
EMBEDDED_AT_ONCE = 256
COUNTS = ("images", "undecodable", "nearly_blank")
HASH_KIND = b"worldclip.hash"  # in a file's metadata: hashes of two kinds do not compare


@dataclass(frozen=True, kw_only=True, slots=True)
class HashKind:
    """What a 64-bit hash is made of."""

    name: str = "phash"
    """`phash`, or `embedding` and the digest of the model's weights."""
    model: str | None = None
    """Where the embedding's model is."""

    @classmethod
    def of(cls, config: CheckConfig) -> HashKind:
        if config.hash == "phash":
            return cls()
        model = str(config.embedding_model)
        files = sorted(Path(model).rglob("*.safetensors")) if Path(model).is_dir() else []
        known: list[Any] = [fingerprint(file, Path(model)) for file in files] or [model]
        return cls(name=f"embedding {digest(known)}", model=model)

    def require_model(self) -> None:
        """Raises UserError for a model that cannot be loaded: before any work, not for each shard."""
        if self.model is not None:
            _load_model(self.model)

    @property
    def schema(self) -> pa.Schema:
        return IMAGE_HASHES.with_metadata({**IMAGE_HASHES.metadata, HASH_KIND: self.name.encode()})


@repeatable
def look_at_pool_shard(shard: Shard, *, pool: PoolConfig, folder: Path, kind: HashKind) -> Report:
    """Write folder/images/<shard>.parquet, one row an image of the pool's index; its name is the pair's key."""
    place = folder / "images" / f"{shard.name}.parquet"
    table = _look_at_tar(shard, pool, kind)
    write_table(place, table, kind.schema)
    return report_of(table)


def hash_images(source: Path, out: Path, executor: Executor, *, config: CheckConfig | None = None) -> dict[str, int]:
    """Write `out` (Parquet), a row for each image of `source`: a folder of image files or tars, or one .tar.

    Returns counts: images, undecodable, nearly_blank.  Raises UserError where there is no image, or `out` cannot be
    written, StageFailed for bad tars.  An interrupted call goes on where it stopped.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; give the file to write (.parquet)")
    kind = HashKind.of(config or CheckConfig())
    look = functools.partial(_look_at_unit, kind=kind)
    units = source_units(source)
    kind.require_model()
    with RunLock(_parts_of(out)):
        return hash_units(units, look, out, executor, key={"source": str(source.resolve())}, kind=kind)


def _parts_of(out: Path) -> Path:
    """What is there until `out` is finished."""
    return out.with_name(f".{out.name}.parts")


def hash_units(
    units: Sequence[Shard], look: Callable[..., Report], out: Path, executor: Executor, *, key: Any, kind: HashKind
) -> dict[str, int]:
    """look(unit, folder=...) for all units, then the rows that they wrote as one file; returns the sums of counts."""
    parts = _parts_of(out)
    key = {"key": key, "hash": kind.name}
    fn = functools.partial(look, folder=parts)
    reports = executor.map(fn, units, label="hash", done_dir=parts / "done", key=key)
    with_rows = (read_hashes(parts / f"{unit.name}.parquet", kind) for unit in units)

    def write(aside: Path) -> None:
        with pq.ParquetWriter(aside, kind.schema, compression="zstd") as writer:
            for table in with_rows:
                writer.write_table(table.cast(kind.schema))

    write_artifact(out, write)
    counts = add_counts(reports, COUNTS)
    shutil.rmtree(parts)
    return counts


def read_hashes(path: Path, kind: HashKind, columns: list[str] | None = None) -> pa.Table:
    """A file of hashes.  Raises BadShard where it is none, UserError where its hashes are of another kind."""
    table = read_table(path, IMAGE_HASHES, columns)
    found = (pq.read_schema(path).metadata or {}).get(HASH_KIND, b"?").decode()
    if found != kind.name:
        raise UserError(
            f"{path} holds hashes of kind {found!r}, the check compares {kind.name!r}; hash its images again with the "
            "same hash and embedding_model"
        )
    return table


def source_units(source: Path) -> list[Shard]:
    """Tars one by one, image files in groups of FILES_AT_ONCE, by name.  Raises UserError where there is neither."""
    if source.is_file() and source.suffix == ".tar":
        return [Shard(name=source.name, path=str(source), fingerprint=fingerprint(source, source.parent))]
    if not source.is_dir():
        raise UserError(f"{source} is neither a folder nor a .tar; give a folder of images or tars, or one .tar")
    found = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    units = [
        Shard(name=path.relative_to(source).as_posix(), path=str(path), fingerprint=fingerprint(path, source))
        for path in found
        if path.suffix == ".tar"
    ]
    files = [path for path in found if path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES]
    for at in range(0, len(files), FILES_AT_ONCE):
        group = [(path.relative_to(source).as_posix(), path.stat()) for path in files[at : at + FILES_AT_ONCE]]
        known = {"files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in group]}
        units.append(Shard(name=f"files_{at // FILES_AT_ONCE:06}", path=str(source), fingerprint=known))
    if not units:
        raise UserError(
            f"{source} holds no tar and no image ({', '.join(IMAGE_SUFFIXES)}); compressed tars: unpack them"
        )
    return units


def _look_at_unit(unit: Shard, *, folder: Path, kind: HashKind) -> Report:
    place = folder / f"{unit.name}.parquet"
    if "files" in unit.fingerprint:
        table = _look_at_files(Path(unit.path), [name for name, *_ in unit.fingerprint["files"]], kind)
    else:
        table = _look_at_tar(unit, PoolConfig(), kind)
    write_table(place, table, kind.schema)
    return report_of(table)


def report_of(table: pa.Table) -> Report:
    undecodable = table.num_rows - table.column("error").null_count
    without_hash = table.column("hash").null_count
    return {
        "pairs": table.num_rows,
        "images": table.num_rows,
        "undecodable": undecodable,
        "nearly_blank": without_hash - undecodable,
    }


def _look_at_tar(shard: Shard, pool: PoolConfig, kind: HashKind) -> pa.Table:
    index, contents = read_images(shard, pool)
    file = shard.path if is_remote(shard.path) else str(Path(shard.path).resolve())
    where = {
        "name": index["key"],
        "file": pa.array([file] * len(index), pa.string()),
        "offset": index["offset"],
        "size": index["size"],
    }
    return pa.table({**where, **look_at_all(contents, kind)})


def _look_at_files(folder: Path, names: list[str], kind: HashKind) -> pa.Table:
    def contents() -> Iterator[bytes]:
        for name in names:
            try:
                yield (folder / name).read_bytes()
            except OSError as error:
                raise BadShard(f"{folder / name}: cannot be read ({error.strerror})") from error

    rows = look_at_all(contents(), kind)
    where = {
        "name": pa.array(names, pa.string()),
        "file": pa.array([str((folder / name).resolve()) for name in names], pa.string()),
        "offset": pa.array([0] * len(names), pa.int64()),
        "size": pa.array([(folder / name).stat().st_size for name in names], pa.int64()),
    }
    return pa.table({**where, **rows})


def look_at_all(contents: Iterable[bytes], kind: HashKind) -> dict[str, pa.Array]:
    """Columns of ImageFacts; under an embedding its hashes take the place of the perceptual ones."""
    facts: list[tuple[Any, ...]] = []
    if kind.model is None:
        facts.extend(astuple(look_at(content)) for content in contents)
    else:
        for group in _groups(contents, EMBEDDED_AT_ONCE):
            facts.extend(astuple(fact) for fact in _with_embeddings(group, kind.model))
    names = [field.name for field in fields(ImageFacts)]
    columns = dict(zip(names, zip(*facts, strict=True), strict=True)) if facts else dict.fromkeys(names, ())
    columns["hash"], columns["mirrored_hash"] = columns.pop("phash"), columns.pop("mirrored_phash")
    return {name: pa.array(values, IMAGE_HASHES.field(name).type) for name, values in columns.items()}


def _groups(items: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _with_embeddings(contents: list[bytes], model: str) -> list[ImageFacts]:
    facts = [look_at(content) for content in contents]
    rows = [row for row, fact in enumerate(facts) if fact.error is None]
    if rows:
        features_ND = _load_model(model).encode_image([contents[row] for row in rows])
        for row, embedding_hash in zip(rows, embedding_hashes(features_ND).tolist(), strict=True):
            facts[row] = replace(facts[row], phash=embedding_hash, mirrored_phash=None)
    return facts


def embedding_hashes(image_features_ND: np.ndarray) -> np.ndarray:
    """(N, D) float32 -> (N,) uint64: bit k is the sign of a fixed random direction (arXiv:2507.22062 uses 64 bits)."""
    directions_D64 = np.random.default_rng(0).standard_normal((image_features_ND.shape[1], 64))
    is_positive_N64 = image_features_ND.astype(np.float64) @ directions_D64 > 0
    return np.packbits(is_positive_N64, axis=1).view(">u8").astype(np.uint64).reshape(-1)


@functools.cache
def _load_model(model: str) -> Any:
    require("torch", extra="train")
    from worldclip.model.load import load

    return load(model)
