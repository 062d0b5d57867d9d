"""How many pairs each shard has in each epoch: the ranks count a share each, and RUN/train/epochs keeps the numbers.

    RUN/train/epochs/<digest of what decides them>/<epoch>.npy              (2, num_shards) int64: PAIRS, WITHOUT_IMAGE
    RUN/train/epochs/<digest>/<epoch>.<rank>_of_<ranks>.npy                 one rank's share, until all are there

The ranks meet in the folder and not in a collective: an epoch is counted while the step before it runs, which has
collectives of its own, and a restart finds what was counted.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from worldclip.core import artifacts
from worldclip.train.distributed import ALONE, LONG_TIMEOUT, World, rank_cores
from worldclip.train.retries import patient

PAIRS, WITHOUT_IMAGE = 0, 1  # rows of the numbers
EPOCHS_KEPT = 8  # number of epochs in memory
POLL_S = 0.1  # interval of looking for another rank's numbers


class EpochCounts:
    """Pairs by shard and epoch."""

    def __init__(
        self, folder: Path | None, count: Callable[[int, int], tuple[int, int]], num_shards: int, world: World = ALONE
    ) -> None:
        """count(shard, epoch) returns (pairs, kept pairs without an image); it is called from threads.

        folder: the place of these numbers in RUN/train/epochs, which all ranks use, or None if this process counts all.
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
