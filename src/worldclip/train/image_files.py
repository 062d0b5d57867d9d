"""Read the files that hold the images of the plan, which may change or go while training reads them for weeks."""

from __future__ import annotations

import functools
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa

from worldclip.core.coin import sample_rows
from worldclip.core.console import say
from worldclip.core.errors import BadShard
from worldclip.core.execute import Shard
from worldclip.core.inputs import is_remote
from worldclip.core.remote import retry
from worldclip.model.decode import BadImage
from worldclip.pool import is_table
from worldclip.pool.files import FileBytes, read_range, unreadable
from worldclip.pool.picture_files import picture_path, read_picture
from worldclip.pool.row_groups import RowGroups

RETRY_S = 2.0  # a file that cannot be read is tried again for so long
WAIT_S = 0.5  # ... at first after this wait
ROW_GROUP_BYTES = 512 * 2**20  # encoded images of Parquet files kept in memory, by whole row groups
OPEN_FILES = 128  # local tars kept open: those of two windows of the default size
CHANGED = "it changed after it was indexed; run the stage pool again, or put the old file back"
NUM_BAD_SAMPLES = 20
Result = TypeVar("Result")


@dataclass(slots=True)
class BadImages:
    """Images that could not be used, each replaced by another pair."""

    counts: Counter[str] = field(default_factory=Counter)
    """Number of images by reason."""
    samples: dict[str, str] = field(default_factory=dict)
    """Detail by key, of NUM_BAD_SAMPLES images at most."""

    def add(self, key: str, image: BadImage) -> None:
        """Count one image."""
        self.counts[image.reason] += 1
        if len(self.samples) < NUM_BAD_SAMPLES:
            self.samples[key] = str(image)

    def update(self, other: BadImages) -> None:
        """Add the images of `other`.  Samples are chosen by hash, so that every run reports the same ones."""
        self.counts.update(other.counts)
        if other.samples:
            samples = self.samples | other.samples
            keys = sorted(samples)
            rows, _ = sample_rows(keys, 0, NUM_BAD_SAMPLES)
            self.samples = {keys[row]: samples[keys[row]] for row in rows}


class ImageFiles:
    """Reads images at the places of the index.  A file of another size than it had is not opened.

    An open file is read on, also after another one took its name.  Safe to call from threads.
    """

    def __init__(self, shards: Sequence[Shard], read_index: Callable[[Shard], pa.Table]) -> None:
        """read_index: reads a shard's index, whose rows are the places of images that are files of their own."""
        self.shards = shards
        self._members = functools.cache(lambda i: read_index(shards[i])["member"].combine_chunks())
        self._row_groups = RowGroups(ROW_GROUP_BYTES)
        self._lost: set[int] = set()  # files that could not be read
        self._open: OrderedDict[int, FileBytes] = OrderedDict()
        self._open_lock = threading.Lock()

    def read(self, i: int, offset: int, size: int) -> bytes:
        """Return `size` bytes of file i.  Raises BadShard, which names it, if it cannot be read or is another now."""
        shard = self.shards[i]
        if offset < 0:
            path = picture_path(shard.path, self._members(i)[-1 - offset].as_py())
            return retry(lambda: read_picture(path, size), RETRY_S, _may_pass, WAIT_S)
        if is_table(shard.path):
            image = self.read_rows(i, np.array([offset], np.int64))[0]
            if isinstance(image, BadShard):
                raise image
            return image
        try:
            content = self._retry(i, lambda: self._read_once(i, offset, size))
        except BadShard as error:
            self._note_lost(i, error)
            raise BadShard(f"{shard.name}: {error}") from error
        self._lost.discard(i)
        return content

    def _note_lost(self, i: int, error: BadShard) -> None:
        """Print that a file cannot be read, once until it can be read again."""
        if i not in self._lost:
            self._lost.add(i)
            say("train", f"{self.shards[i].name}: {error}; its pairs are replaced by others")

    def read_rows(self, i: int, offsets: np.ndarray) -> list[bytes | BadShard]:
        """Return the images of Parquet file i at ascending offsets, or why each cannot be read, naming the file."""
        shard = self.shards[i]
        try:
            images = self._retry(i, lambda: self._read_rows_once(i, offsets))
        except BadShard as error:
            images = [error] * len(offsets)
        first_fault = None
        for row, image in enumerate(images):
            if isinstance(image, BadShard):
                first_fault = first_fault or image
                images[row] = BadShard(f"{shard.name}: {image}")
        if first_fault is None:
            self._lost.discard(i)
        else:
            self._note_lost(i, first_fault)
        return images

    def _read_rows_once(self, i: int, offsets: np.ndarray) -> list[bytes | BadShard]:
        """Return images, or why each cannot be read.  Raises BadShard if none can."""
        path = self.shards[i].path
        if not is_remote(path):
            try:
                self._check_size(i, os.stat(path).st_size)
            except OSError as error:
                raise unreadable(error) from error
        images = self._row_groups.read(path, offsets)
        if isinstance(images[0], BadShard) and not any(isinstance(image, bytes) for image in images):
            raise images[0]
        return images

    def _retry(self, i: int, read: Callable[[], Result]) -> Result:
        """Read with some patience, as long as file i was readable the last time."""
        seconds = 0.0 if i in self._lost else RETRY_S
        return retry(read, seconds, lambda error: isinstance(error, BadShard), WAIT_S)

    def _read_once(self, i: int, offset: int, size: int) -> bytes:
        path = self.shards[i].path
        try:
            if is_remote(path):
                content = read_range(path, offset, size)
            else:
                content = self._opened(i).read(offset, size)
            if len(content) < size:
                raise BadShard(f"ends before byte {offset + size:,}; {CHANGED}")
        except BadShard:
            with self._open_lock:  # a network file system may have a good file under the name of a stale handle
                self._open.pop(i, None)
            raise
        return content

    def _opened(self, i: int) -> FileBytes:
        """Return file i, open.  The one that was not read for longest is closed, once no thread reads it."""
        with self._open_lock:
            file = self._open.get(i)
        if file is None:  # opened outside the lock: a network file system takes milliseconds
            file = FileBytes(self.shards[i].path)
            self._check_size(i, file.size)
        with self._open_lock:
            file = self._open.setdefault(i, file)
            self._open.move_to_end(i)
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return file

    def _check_size(self, i: int, size: int) -> None:
        """Raise BadShard if file i has another size than when it was indexed."""
        indexed = self.shards[i].fingerprint.get("size", size)
        if size != indexed:
            raise BadShard(f"has {size:,} bytes, not {indexed:,}; {CHANGED}")


def _may_pass(error: Exception) -> bool:
    """Return whether another try may read a picture: the system refused it, and it is not gone."""
    return isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
