"""The kept pairs of each shard in each epoch, joined with the places of their images.

Offline they are the list in RUN/curate, the same in every epoch.  Online they are decided again in each epoch, from the
matched texts and the entry probabilities, by the code that wrote the list: epoch 0 is the list.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from worldclip.core import artifacts
from worldclip.core.arrow import one_array
from worldclip.core.console import say
from worldclip.core.errors import BadShard, first_line
from worldclip.core.execute import Shard
from worldclip.core.remote import retry
from worldclip.curate import Candidates, CurateWork, decide_on, read_curated
from worldclip.pool import EVERY_KEY, read_images
from worldclip.train.distributed import ALONE, LONG_TIMEOUT, World, rank_cores
from worldclip.train.pool_join import file_positions, read_joined_index, read_places

PAIRS, WITHOUT_IMAGE = 0, 1  # rows of the numbers
EPOCHS_KEPT = 8  # number of epochs in memory
POLL_S = 0.1  # interval of looking for another rank's numbers
RETRY_S = 60.0  # a read that failed is tried again for so long
FIRST_WAIT_S = 0.5
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def patient(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Try `read` again for RETRY_S: a file system may fail once in a training of weeks.

    A missing file or another format fails at once.
    """

    @functools.wraps(read)
    def try_again(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return retry(lambda: read(*args, **kwargs), RETRY_S, _may_pass, FIRST_WAIT_S)

    return try_again


def _may_pass(error: Exception) -> bool:
    """Return whether another try may succeed, and print it: the error is not one of a file's contents or name."""
    cause = error.__cause__ if isinstance(error, BadShard) else error
    if not isinstance(cause, OSError) or isinstance(cause, FileNotFoundError):
        return False
    say("train", f"WARNING: {first_line(error)}; reading it again for {RETRY_S:.0f} s")
    return True


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that have an image; row i of each column is pair i."""

    keys: pa.Array
    text_idx: np.ndarray
    texts: pa.Array
    lang: pa.Array
    shard: np.ndarray
    """Index of the tar that holds the image."""
    offset: np.ndarray
    """Byte offset of the image in its tar; below 0: a row of the index, whose `member` is the image's own file."""
    size: np.ndarray
    """Bytes of the image."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Pairs:
        """Return the pairs at `rows`, in that order."""
        return Pairs(*(getattr(self, field.name).take(rows) for field in fields(self)))


def concat_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Concatenate pairs, in order."""
    columns = []
    for field in fields(Pairs):
        chunks = [getattr(part, field.name) for part in parts]
        columns.append(np.concatenate(chunks) if isinstance(chunks[0], np.ndarray) else pa.concat_arrays(chunks))
    return Pairs(*columns)


class EpochCounts:
    """Pairs of each shard in each epoch: the ranks count a share each, and RUN/train/epochs keeps the numbers.

        RUN/train/epochs/<epoch>.npy                    (2, num_shards) int64: PAIRS, WITHOUT_IMAGE
        RUN/train/epochs/<epoch>.<rank>_of_<ranks>.npy  one rank's share, until all are there

    What decides them never changes in a training: one of other inputs begins with an empty RUN/train.

    The ranks meet in the folder and not in a collective: an epoch is counted while the step before it runs, which has
    collectives of its own, and a restart finds what was counted.
    """

    def __init__(
        self, folder: Path | None, count: Callable[[int, int], tuple[int, int]], num_shards: int, world: World = ALONE
    ) -> None:
        """count(shard, epoch) returns (pairs, kept pairs without an image); it is called from threads.

        folder: RUN/train/epochs, which all ranks use, or None if this process counts all.
        """
        self.folder = folder
        self.num_shards = num_shards
        self.world = world
        self._count_shard = count
        self._of_epoch = functools.lru_cache(maxsize=EPOCHS_KEPT)(self._load)
        self._lock = threading.Lock()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="count")
        self._ahead: dict[int, Future[None]] = {}

    def of_epoch(self, epoch: int) -> np.ndarray:
        """Wait until all ranks have counted their shares; return (2, num_shards) int64, PAIRS and WITHOUT_IMAGE."""
        with self._lock:  # the loader's thread and the loop may ask at once
            if epoch in self._ahead:
                self._ahead.pop(epoch).result()
            return self._of_epoch(epoch)

    def count_ahead(self, epoch: int) -> None:
        """Count this rank's share of an epoch in the background."""
        with self._lock:
            if epoch not in self._ahead and self.folder is not None:
                self._ahead[epoch] = self._background.submit(self._write_share, epoch, self.folder)

    def _load(self, epoch: int) -> np.ndarray:
        if self.folder is None:
            return self._count(range(self.num_shards), epoch)
        path = self.folder / f"{epoch:06}.npy"
        if not path.exists():
            self._write_share(epoch, self.folder)
            if not self.world.is_first:
                wait_for(path)
                return _read_counts(path)
            counts = np.zeros((2, self.num_shards), np.int64)
            for rank in range(self.world.size):
                share = self.folder / f"{epoch:06}.{rank}_of_{self.world.size}.npy"
                wait_for(share)
                counts[:, rank :: self.world.size] = _read_counts(share)
            artifacts.write_array(path, counts)
            for share in self.folder.glob(f"{epoch:06}.*_of_*.npy"):  # also shares of other numbers of ranks
                share.unlink(missing_ok=True)
        return _read_counts(path)

    def _count(self, shards: Sequence[int], epoch: int) -> np.ndarray:
        """Return (2, shards) int64, PAIRS and WITHOUT_IMAGE."""
        with ThreadPoolExecutor(rank_cores()) as threads:
            counted = list(threads.map(lambda shard: self._count_shard(shard, epoch), shards))
        return np.array(counted, np.int64).reshape(-1, 2).T

    def _write_share(self, epoch: int, folder: Path) -> None:
        """Count the shards rank, rank + ranks, ..., unless an earlier process has done it."""
        path = folder / f"{epoch:06}.{self.world.rank}_of_{self.world.size}.npy"
        if not path.exists() and not (folder / f"{epoch:06}.npy").exists():
            artifacts.write_array(path, self._count(range(self.world.rank, self.num_shards, self.world.size), epoch))


@patient
def _read_counts(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, allow_pickle=False))


def wait_for(path: Path) -> None:
    """Wait until another rank has written a file.  Raises TimeoutError after LONG_TIMEOUT."""
    deadline = time.monotonic() + LONG_TIMEOUT.total_seconds()
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path}: no rank wrote it within {LONG_TIMEOUT}; all ranks must share the run's folder")
        time.sleep(POLL_S)


class PairSource:
    """Pairs by shard and epoch.  Shards are read on demand, and `num_cached` of them stay in memory.

    A read that fails is tried again.

    work: what online curation decides by; None reads the offline list.
    """

    def __init__(
        self,
        run_dir: Path,
        shards: Sequence[Shard],
        image_shards: Sequence[Shard] | None,
        num_cached: int,
        work: CurateWork | None = None,
        world: World = ALONE,
        epochs_dir: Path | None = None,
    ) -> None:
        """shards: sorted by name.  epochs_dir: see EpochCounts."""
        self.run_dir = run_dir
        self.shards = shards
        self.image_shards = image_shards
        # 4 bytes per entry, 108 MB for 27 million; a map could not be read again after an error of the disk
        self.work = None if work is None else dataclasses.replace(work, is_mapped=False)
        cache = functools.lru_cache(maxsize=num_cached)
        self._read = cache(self._read_pairs)
        self._candidates = cache(self._read_candidates)
        self._all_fit = len(shards) <= num_cached
        self._counts = EpochCounts(epochs_dir, self.count_shard, len(shards), world)

    @property
    def is_online(self) -> bool:
        """Whether each epoch has pairs of its own."""
        return self.work is not None

    def read_shard(self, shard_idx: int, epoch: int) -> Pairs:
        """Return the pairs of a shard in an epoch, in the pool's order."""
        return self._read(shard_idx, epoch if self.is_online else 0)[0]

    def counts(self, epoch: int) -> tuple[np.ndarray, int]:
        """Return ((num_shards,) int64 pairs of each shard in an epoch, number of kept pairs without an image)."""
        counts = self._counts.of_epoch(epoch if self.is_online else 0)
        return counts[PAIRS], int(counts[WITHOUT_IMAGE].sum())

    def count_ahead(self, epoch: int) -> None:
        """Count the pairs of an epoch in the background, where it has pairs of its own."""
        if self.is_online:
            self._counts.count_ahead(epoch)

    def count_shard(self, shard_idx: int, epoch: int) -> tuple[int, int]:
        """Return (pairs of a shard in an epoch, kept pairs without an image)."""
        if self._all_fit:  # what training reads anyway
            pairs, num_missing = self._read(shard_idx, epoch)
            return len(pairs), num_missing
        kept_keys = self._kept_keys(shard_idx, epoch)
        has_image = pc.is_in(kept_keys, value_set=self._places(shard_idx)[0]["key"])
        num_pairs = pc.sum(has_image).as_py() or 0
        return num_pairs, len(kept_keys) - num_pairs

    @patient
    def _kept_keys(self, shard_idx: int, epoch: int) -> pa.ChunkedArray:
        """Read the keys of a shard's kept pairs, without their texts."""
        shard = self.shards[shard_idx]
        if self.work is None:
            return read_curated(self.run_dir, shard, ("key",))["key"]
        table, candidates, keep_prob = self.work.read(shard.name)
        decision = decide_on(candidates, keep_prob, self.work.config, epoch)
        return table["key"].filter(pa.array(decision.kept_T))

    @patient
    def _read_pairs(self, shard_idx: int, epoch: int) -> tuple[Pairs, int]:
        """Return (pairs of a shard in an epoch, number of kept pairs without an image)."""
        if self.work is None:
            columns = ("key", "text_idx", "text", "lang")
            curated = read_curated(self.run_dir, self.shards[shard_idx], columns)
            pairs, has_image = self._join_images(curated, shard_idx)
            return pairs, int((~has_image).sum())
        candidates, keep_prob, pairs, has_image = self._candidates(shard_idx)
        kept_T = decide_on(candidates, keep_prob, self.work.config, epoch).kept_T
        return pairs.take(np.flatnonzero(kept_T[has_image])), int((kept_T & ~has_image).sum())

    def _read_candidates(self, shard_idx: int) -> tuple[Candidates, np.ndarray, Pairs, np.ndarray]:
        """Return (candidates, keep probabilities, the pairs with an image, which candidates those are)."""
        assert self.work is not None
        table, candidates, keep_prob = self.work.read(self.shards[shard_idx].name, with_texts=True)
        return candidates, keep_prob, *self._join_images(table, shard_idx)

    def _join_images(self, table: pa.Table, shard_idx: int) -> tuple[Pairs, np.ndarray]:
        """Return (the rows of key, text_idx, text, lang that have an image, (rows,) bool: which rows those are)."""
        places, file = self._places(shard_idx)
        position = pc.index_in(table["key"], value_set=places["key"]).combine_chunks()
        has_image = position.is_valid()
        table = table.filter(has_image)
        rows = position.drop_null().to_numpy(zero_copy_only=False)

        def column(name: str, dtype: pa.DataType) -> pa.Array:
            return one_array(table[name].cast(dtype))

        pairs = Pairs(
            keys=column("key", pa.large_string()),
            text_idx=column("text_idx", pa.int32()).to_numpy(),
            texts=column("text", pa.large_string()),
            lang=column("lang", pa.string()),
            shard=file[rows],
            offset=places["offset"].to_numpy()[rows],
            size=places["size"].to_numpy()[rows],
        )
        return pairs, has_image.to_numpy(zero_copy_only=False)

    @patient
    def image_index(self, shard: Shard) -> pa.Table:
        """Return where the images of a shard of train.pool are, or of the matched pool."""
        if self.image_shards is None:
            return read_images(self.run_dir, shard.name, EVERY_KEY)  # of kept keys, which the lists have let through
        return read_joined_index(self.run_dir, shard)

    @patient
    def _places(self, shard_idx: int) -> tuple[pa.Table, np.ndarray]:
        """Return (key, offset, size of a shard's images; the file of each), from the index or train.pool's join."""
        if self.image_shards is None:
            places = read_images(self.run_dir, self.shards[shard_idx].name, EVERY_KEY)
            return places, np.full(len(places), shard_idx, np.int64)
        places = read_places(self.run_dir, self.shards[shard_idx])
        return places, file_positions(places, self.image_shards)
