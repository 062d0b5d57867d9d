"""Write files whole: to a temporary file, then renamed; read them against their schema.

Tables are Parquet (zstd) with `worldclip.format` and `worldclip.version` in their metadata; arrays `.npy`; small
records JSON.  A folder's `manifest.json` comes last and says that the folder is finished, and its inputs and config.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core import job_files
from worldclip.core.arrow import narrow_strings
from worldclip.core.errors import BadShard, UserError, checkout, is_no_memory, naming
from worldclip.core.job_files import FORMAT_VERSION, newer_format, read_record, refuse_newer_run
from worldclip.core.local_path import require_local
from worldclip.core.printable import command_line
from worldclip.core.redact import redact, redact_record
from worldclip.core.regular_file import open_regular, read_regular

Json: TypeAlias = dict[str, Any]  # a record
HASHED_BELOW_BYTES = 64 * 2**20  # larger inputs are identified by size and mtime: hashing a pool would read all of it
MANIFEST = "manifest.json"
NOT_INSTALLED = "not installed"  # instead of a package's version


def table_schema(name: str, /, **fields: pa.DataType) -> pa.Schema:
    """Return the schema of an artifact; `write_table` and `read_table` hold tables to it."""
    metadata = {"worldclip.format": name, "worldclip.version": str(FORMAT_VERSION)}
    return pa.schema(list(fields.items()), metadata=metadata)


_ENCODINGS = {  # encodings of ids, by their path in Parquet
    # Ids of a text rise, and their upper bytes repeat: apart, they take 18% less room and 40% less time.
    "entry_ids.list.element": "BYTE_STREAM_SPLIT",
    # Ids of counts rise by little: a twelfth of the room, a third of the time.
    "entry_id": "DELTA_BINARY_PACKED",
}


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Let the block fill a temporary file, then rename it: readers see the whole file or none, even after a crash."""
    require_local(path, "the file")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")  # many machines may share the folder
    try:
        with naming(path):  # a failed write does not say where the disk is full
            yield aside
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
    except PermissionError as error:
        raise PermissionError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Make a folder for temporary files while `path` is written; it goes with the block, or with `sweep`."""
    folder = path.with_name(f".{path.name}.parts.{platform.node()}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with naming(path):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a folder, if it is there, all at once: under its name there is the whole folder or none.

    A folder that is taken apart under its own name would, after a kill, hold markers of outputs that are gone.
    """
    replace_folder(None, path)


def replace_folder(aside: Path | None, path: Path) -> None:
    """Give the finished folder `aside`, if any, the name `path`; an older folder of that name is removed."""
    remove_retired(path)  # a killed removal may have left files
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.removed"))
    if aside is not None:
        os.replace(aside, path)
    remove_retired(path)


def remove_retired(path: Path) -> None:
    """Remove older folders of this name that a killed process had put aside."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.removed"):
        shutil.rmtree(folder, ignore_errors=True)  # what a file system still holds open goes with the next removal


_LEFT = re.compile(r"\..+\.\d+\.(tmp|removed)")


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a locked folder and its own folders, but nothing with a lock of its own."""
    children = [child for child in folder.iterdir() if child.is_dir() and not child.is_symlink()]
    paths = list(folder.glob(".*"))
    for child in children:
        if not job_files.lock(child).exists():
            paths += child.glob(".*")
    for path in paths:
        if not _LEFT.fullmatch(path.name):
            continue
        if job_files.lock(path).exists():  # the folder aside of another job, on a host whose name ends in a number
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    remove_retired(folder)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write `table` as Parquet with `schema`; columns are selected by name and cast safely."""
    write_tables(path, [table], schema)


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables as one Parquet file, as `write_table` does, with at most one of them in memory.

    Without rows the file has a schema and no row group.
    """
    encodings = {path: name for path, name in _ENCODINGS.items() if path.partition(".")[0] in schema.names}
    repeated = []  # columns that get a dictionary, since their values repeat: of keys and texts it costs time and room
    for field in schema:
        is_repeated = pa.types.is_dictionary(field.type) or pa.types.is_integer(field.type)
        if is_repeated and field.name not in encodings:
            repeated.append(field.name)
    options: Json = {"compression": "zstd", "use_dictionary": repeated, "column_encoding": encodings}
    with whole_file(path) as aside, pq.ParquetWriter(aside, schema, **options) as writer:
        for table in tables:
            if table.num_rows:  # other software cannot read a row group without rows: datasets, mlcroissant
                writer.write_table(_with_schema(table, schema))


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        column = table.column(field.name)
        if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
            column = column.cast(field.type.value_type).dictionary_encode()
        if pa.types.is_large_string(column.type) and pa.types.is_string(field.type):
            columns.append(narrow_strings(column))
        else:
            columns.append(column.cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read an artifact; each column of categories has one dictionary.

    Raises BadShard if the file is unreadable, of another format than `schema`, or too new.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        if is_no_memory(error):
            raise
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error
    with file:
        metadata = file.schema_arrow.metadata or {}
        name = metadata.get(b"worldclip.format", b"?").decode()
        expected = schema.metadata[b"worldclip.format"].decode()
        if name != expected:
            raise BadShard(f"{path}: holds {name!r}, expected {expected!r}")
        problem = newer_format(path, int(metadata[b"worldclip.version"]))
        if problem:
            raise BadShard(problem)
        table = file.read(columns=list(columns) if columns is not None else None)
        # Each row group, and so each shard in a file of all shards, has its own dictionary; Arrow does not group by a
        # column whose chunks have different ones.
        return table.unify_dictionaries()


def write_array(path: Path, array: np.ndarray) -> None:
    write_array_parts(path, array.shape, array.dtype, [array])


def write_array_parts(path: Path, shape: tuple[int, ...], dtype: Any, parts: Iterable[np.ndarray]) -> None:
    """Write an array of this shape from its parts along the first axis, with one part in memory at a time.

    np.save does not say that a disk is full, and a write through a memory map ends the process on one.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    num_items = 0
    with whole_file(path) as aside, open(aside, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            plain = np.asarray(part, dtype=dtype, order="C")
            file.write(plain.reshape(-1).view(np.uint8).data)
            num_items += plain.size
        assert num_items == math.prod(shape)


def write_text(path: Path, text: str) -> None:
    """Write a page, a card or a recipe, without the credentials in its addresses."""
    with whole_file(path) as aside:
        aside.write_text(redact(text), encoding="utf-8")


def write_json(path: Path, record: Any, *, is_compact: bool = False) -> None:
    """Write a small record: keys in their order, non-ASCII characters as they are, a final line end, no credential.

    Credentials are looked for in the record: in JSON's own text they may end with the backslash of an escaped quote.
    """
    layout: dict[str, Any] = {"separators": (",", ":")} if is_compact else {"indent": 1}
    content = json.dumps(redact_record(record), ensure_ascii=False, **layout) + "\n"
    with whole_file(path) as aside:
        aside.write_text(content, encoding="utf-8")


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Write one record per line, as `write_json` does."""
    with whole_file(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(redact_record(record), ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(read_regular(path).decode())


def digest(record: Any) -> str:
    """Return 32 hex digits that identify a JSON-able record; key order does not matter."""
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def fingerprint(path: Path, root: Path) -> Json:
    """Return what identifies an input: relative path, size, and the SHA-256 (under 64 MiB) or the mtime in ns."""
    stat = path.stat()
    record: Json = {"path": path.relative_to(root).as_posix(), "size": stat.st_size}
    if stat.st_size < HASHED_BELOW_BYTES:
        with open_regular(path) as file:
            record["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        record["mtime_ns"] = stat.st_mtime_ns
    return record


def versions(packages: Iterable[str] = ("worldclip", "numpy", "numba", "pyarrow")) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    numbers = {"python": platform.python_version()}
    for package in packages:
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = NOT_INSTALLED
    return numbers


def code_digest(stage: str) -> str | None:
    """Return the digest of the Python files of a stage's package, worldclip/<stage>; None where there is no package."""
    folder = Path(__file__).parents[1] / stage
    files = sorted(folder.rglob("*.py"))
    if not files:
        return None
    return digest([[path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8")] for path in files])


def write_manifest(folder: Path, *, config: Any, inputs: Any, counts: Any, **fields: Any) -> Json:
    """Mark `folder` as finished; return the manifest.

    Its digest covers format, config and inputs, and `digests` of outputs where these are small enough to be read: a
    changed formula or a restored backup then makes what is below run again.
    """
    manifest = {
        "format_version": FORMAT_VERSION,
        "digest": manifest_digest(config, inputs, fields.get("digests")),
        "config": config,
        "inputs": inputs,
        "counts": counts,
        "versions": versions(),
        **fields,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def manifest_digest(config: Any, inputs: Any, digests: Any = None) -> str:
    """Return the digest of a manifest; digests: of outputs, None: they are not covered."""
    covered = [FORMAT_VERSION, config, inputs]
    if digests is not None:
        covered.append(digests)
    return digest(covered)


def read_manifest(folder: Path) -> Json | None:
    """Return the manifest of a finished folder, None if the folder is not finished.

    Raises UserError for one of a newer format.
    """
    return read_record(folder / MANIFEST)


def require_manifest(run: Path, stage: str) -> Json:
    """Return the manifest of RUN/<stage>.  Raises UserError that says what to run first."""
    if run.is_file():
        raise UserError(f"{run} is a file; give the folder of a run (a recipe runs into runs/NAME, or --out)")
    refuse_newer_run(run)
    manifest = read_manifest(run / stage)
    if manifest is None:
        raise UserError(f"{run / stage} is not finished; run first: {command_line(stage, run)}")
    return manifest


def describe_run() -> Json:
    """Return the format of a run, the versions and the machine that made it; of a git checkout the revision too, which
    ends in `-dirty` where files differ from it."""
    revision = None
    folder = checkout()
    git = shutil.which("git")
    if folder is not None and (folder / ".git").exists() and git is not None:
        command = [git, "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            revision = answer.stdout.strip()
    return {
        "format_version": FORMAT_VERSION,
        "versions": versions(("worldclip", "numpy", "numba", "pyarrow", "torch", "transformers", "tokenizers")),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "git_revision": revision,
    }
