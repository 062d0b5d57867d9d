"""Parquet files of datasets, and the images in their column `image`, structs of bytes and path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from worldclip.core.artifacts import Json
from worldclip.core.errors import BadShard, UserError, is_no_memory
from worldclip.core.inputs import stamp_of
from worldclip.core.parquet_size import check_parquet
from worldclip.core.regular_file import what_is
from worldclip.core.unpack import TooLarge
from worldclip.evaluate.datasets.common.images import Images, changed, fingerprints


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Raise BadShard for an error of Arrow or of the file system."""
    try:
        yield
    except TooLarge as error:
        raise BadShard(f"{path}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        if is_no_memory(error):
            raise
        raise BadShard(f"{path}: not a readable Parquet file ({error})") from error


def _open(path: Path, columns: Sequence[str]) -> pq.ParquetFile:
    """Return a file that has these columns.  Raises UserError if it is missing or lacks one of them."""
    if not path.exists():
        raise UserError(f"{path} is missing; fetch the dataset again")
    if kind := what_is(path):
        raise UserError(f"{path} {kind}; fetch the dataset again")
    with _unreadable(path):
        check_parquet(path, path.stat().st_size)
        file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if missing := [name for name in columns if name not in names]:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(names)}")
    return file


def read_parquet(path: Path, columns: Sequence[str]) -> list[Json]:
    """Return the rows of a file with these columns.  Raises UserError, see _open, and BadShard."""
    file = _open(path, columns)
    with _unreadable(path):
        return list(file.read(columns=list(columns)).to_pylist())


def images_in_parquet(
    files: Sequence[Path], id_column: str, key_of: Callable[[str], str], root: Path, *, is_sorted: bool
) -> Images:
    """Return the distinct images of `files`, each from the first row that has it, sorted by key or in the files' order.

    key_of: takes a row's id and returns the key of its image.  root: see fingerprints.
    """
    stamps = {path: stamp_of(str(path)) for path in files if path.exists()}
    places: dict[str, tuple[Path, int, int]] = {}
    for path in files:
        file = _open(path, (id_column, "image"))
        for group in range(file.num_row_groups):
            with _unreadable(path):
                ids = file.read_row_group(group, columns=[id_column])[id_column].to_pylist()
            for row, row_id in enumerate(ids):
                places.setdefault(key_of(row_id), (path, group, row))
    keys = sorted(places) if is_sorted else list(places)
    # The row group that was read last: keys are mostly in the order of the rows, so that it has the next image too.
    latest: dict[tuple[Path, int], pa.Table] = {}

    def read(start: int, stop: int) -> list[bytes]:
        images = []
        for key in keys[start:stop]:
            path, group, row = places[key]
            if (path, group) not in latest:
                latest.clear()
                with _unreadable(path):
                    latest[path, group] = _open(path, ("image",)).read_row_group(group, columns=["image"])
                if stamp_of(str(path)) != stamps[path]:
                    raise changed(path)
            image = latest[path, group]["image"][row].as_py()
            if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
                raise BadShard(f"{path}: the image {key} has no bytes; fetch the dataset again")
            images.append(image["bytes"])
        return images

    return Images(keys=keys, read=read, fingerprints=fingerprints(files, root))
