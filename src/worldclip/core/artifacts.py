"""Every artifact's schema, and the only way to a finished file: written aside, then renamed.

Tables are Parquet (zstd) that carry `worldclip.format` and `worldclip.version`; arrays `.npy`; small records JSON.
A folder's `manifest.json` comes last and says that the folder is done, from which inputs and with which config.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.errors import BadShard, UserError

FORMAT_VERSION = 1
HASHED_BELOW_BYTES = 64 * 2**20  # larger inputs are known by size and mtime, DESIGN: contracts on disk
MANIFEST = "manifest.json"


def _schema(name: str, /, **fields: pa.DataType) -> pa.Schema:
    metadata = {"worldclip.format": name, "worldclip.version": str(FORMAT_VERSION)}
    return pa.schema(list(fields.items()), metadata=metadata)


_CATEGORY = pa.dictionary(pa.int32(), pa.string())

METADATA = _schema("metadata", entry_id=pa.int32(), entry=pa.string(), source=_CATEGORY, score=pa.float64())
POOL_INDEX = _schema("pool_index", key=pa.string(), member=pa.string(), offset=pa.int64(), size=pa.int64())
MATCH_TEXTS = _schema(
    "match_texts",
    key=pa.string(),
    text_idx=pa.int32(),
    text=pa.string(),
    lang=_CATEGORY,
    lang_prob=pa.float32(),
    entries_lang=_CATEGORY,
    entry_ids=pa.large_list(pa.int32()),
)
MATCH_COUNTS = _schema("match_counts", entries_lang=_CATEGORY, entry_id=pa.int32(), count=pa.uint64())
CAP_NUMBERS = _schema("cap_numbers", lang=_CATEGORY, number=pa.float64())
IMAGE_PLACES = _schema("image_places", key=pa.string(), file=_CATEGORY, offset=pa.int64(), size=pa.int64())
CURATED = _schema(
    "curated", key=pa.string(), text_idx=pa.int32(), text=pa.string(), lang=_CATEGORY, keep_prob=pa.float64()
)
EMBEDDED_TEXTS = _schema("embedded_texts", key=pa.string(), text_idx=pa.int32(), text=pa.large_string())

IMAGE_HASHES = _schema(
    "image_hashes",
    name=pa.string(),
    file=pa.string(),
    offset=pa.int64(),
    size=pa.int64(),
    sha256=pa.binary(16),
    hash=pa.uint64(),
    mirrored_hash=pa.uint64(),
    width=pa.int32(),
    height=pa.int32(),
    num_frames=pa.int32(),
    contrast=pa.float32(),
    error=pa.string(),
)
SCORES = _schema("scores", key=pa.string(), score=pa.float32())
FACES = _schema("faces", key=pa.string(), face_bboxes=pa.list_(pa.list_(pa.float32())))
VALID_KEYS = _schema("valid_keys", key=pa.string())
REMOVED = _schema(
    "removed",
    key=pa.string(),
    shard=_CATEGORY,
    rule=_CATEGORY,
    detail=pa.string(),
    other_key=pa.string(),
    distance=pa.int16(),
    lang=_CATEGORY,
)
DUPLICATES = _schema("duplicates", shard=_CATEGORY, key=pa.string(), first_shard=_CATEGORY)
REMOVED_TEXTS = _schema("removed_texts", key=pa.string(), text_idx=pa.int32(), rule=_CATEGORY, detail=pa.string())
MERGED_TEXTS = _schema(
    "merged_texts", key=pa.string(), text=pa.string(), from_key=pa.string(), from_text_idx=pa.int32()
)


def write_artifact(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file aside, then rename it: a reader finds the whole file or none, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")  # the folder may be many machines'
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write does not say where the disk is full
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write `table` as Parquet under `schema`; columns are taken by name and cast safely."""
    columns = [_cast(table.column(field.name), field.type) for field in schema]
    whole = pa.Table.from_arrays(columns, schema=schema)
    write_artifact(path, lambda aside: pq.write_table(whole, aside, compression="zstd"))


def _cast(column: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_dictionary(to) and not pa.types.is_dictionary(column.type):
        return column.cast(to.value_type).dictionary_encode().cast(to)
    return column.cast(to)


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read an artifact of ours and check that it is what `schema` names.  Raises BadShard where it is not."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error
    with file:
        found = file.schema_arrow.metadata or {}
        name, wanted = found.get(b"worldclip.format", b"?").decode(), schema.metadata[b"worldclip.format"].decode()
        if name != wanted:
            raise BadShard(f"{path}: holds {name!r}, expected {wanted!r}")
        if int(found[b"worldclip.version"]) > FORMAT_VERSION:
            raise BadShard(f"{path}: written by a newer worldclip (format {found[b'worldclip.version'].decode()})")
        return file.read(columns=list(columns) if columns is not None else None)


def write_array(path: Path, array: np.ndarray) -> None:
    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            # As np.save, which hides from an error that it was the disk that is full.
            plain = np.asarray(array, order="C")
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(plain))
            file.write(plain.reshape(-1).view(np.uint8).data)

    write_artifact(path, write)


def write_text(path: Path, text: str) -> None:
    write_artifact(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_json(path: Path, record: Any) -> None:
    """Small records: keys in the order given, non-ASCII readable, one trailing line end."""
    write_text(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def digest(record: Any) -> str:
    """32 hex digits of a JSON-able record; key order does not matter."""
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint(path: Path, root: Path) -> dict[str, Any]:
    """What an input is known by: relative path, size, and its contents' hash (under 64 MiB) or its mtime in ns."""
    stat = path.stat()
    known: dict[str, Any] = {"path": path.relative_to(root).as_posix(), "size": stat.st_size}
    if stat.st_size < HASHED_BELOW_BYTES:
        with open(path, "rb") as file:
            known["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        known["mtime_ns"] = stat.st_mtime_ns
    return known


def versions(packages: Iterable[str] = ("worldclip", "numpy", "numba", "pyarrow")) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_manifest(folder: Path, *, config: Any, inputs: Any, counts: Any, **more: Any) -> dict[str, Any]:
    """Say that `folder` is done.  Its digest is over format, config and inputs alone: equal for equal work."""
    manifest = {
        "format_version": FORMAT_VERSION,
        "digest": digest([FORMAT_VERSION, config, inputs]),
        "config": config,
        "inputs": inputs,
        "counts": counts,
        "versions": versions(),
        **more,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder, None where the folder is not done."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); remove it to have the stage run again") from error
    if manifest.get("format_version", 0) > FORMAT_VERSION:
        raise UserError(f"{path} was written by a newer worldclip (format {manifest['format_version']}); upgrade")
    return manifest


def require_manifest(run: Path, stage: str) -> dict[str, Any]:
    """The manifest of RUN/<stage>, or a UserError that says what to run first."""
    manifest = read_manifest(run / stage)
    if manifest is None:
        raise UserError(f"{run / stage} is not finished; run first: worldclip {stage} {run}")
    return manifest


def describe_run() -> dict[str, Any]:
    """What made a run: versions, machine and the revision of the code where it is a git checkout."""
    return {
        "versions": versions(("worldclip", "numpy", "numba", "pyarrow", "torch", "transformers", "tokenizers")),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_revision": _git_revision(Path(__file__).parent),
    }


def _git_revision(folder: Path) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    answer = subprocess.run([git, "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None
