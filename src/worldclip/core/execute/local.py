"""Run shards in processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from worldclip.core.console import is_quiet, set_level
from worldclip.core.execute.loop import Executor, run_shards
from worldclip.core.execute.shards import Outcome, Shard, ShardWork

QUEUED_PER_WORKER = 2  # one shard runs and one waits, so that no worker waits for this process
LOST = "memory ran out, which the system ends processes for (use fewer --workers), or a library crashed on its contents"


@dataclass(kw_only=True)
class LocalExecutor(Executor):
    """Maps over shards with spawned processes of this machine; a single worker runs in this process."""

    workers: int = 1

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        num_workers = min(self.workers, len(todo))
        if num_workers == 1:
            yield from ((shard.name, work.run(shard)) for shard in todo)
            return
        processes = _Processes(work, num_workers)
        try:
            yield from run_shards(todo, processes)
        except KeyboardInterrupt:
            for worker in {*multiprocessing.active_children()} - processes.started_before:
                worker.terminate()
            raise
        finally:
            processes.pool.shutdown(wait=True, cancel_futures=True)


class _Processes:
    """Workers in a pool, which ends when one of them dies; then a new pool begins."""

    def __init__(self, work: ShardWork, num_workers: int) -> None:
        self._work = work
        self._num_workers = num_workers
        self.started_before = set(multiprocessing.active_children())
        self.pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        level = logging.WARNING if is_quiet() or sys.stderr.isatty() else logging.INFO  # lines would break a bar
        return ProcessPoolExecutor(self._num_workers, mp_context=context, initializer=begin_worker, initargs=(level,))

    def num_at_once(self, *, is_retry: bool) -> int:
        """A shard whose worker died runs by itself: if it kills a worker again, no other shard suffers."""
        return 1 if is_retry else QUEUED_PER_WORKER * self._num_workers

    def submit(self, shard: Shard) -> Future[Outcome]:
        # Ctrl-C and SIGTERM are delivered after the call.  Workers that it starts inherit the mask: the terminal
        # signals all processes, and a worker that is just importing would print a traceback.  This process ends them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return self.pool.submit(self._work.run, shard)
        except BrokenProcessPool as error:
            lost: Future[Outcome] = Future()
            lost.set_exception(error)
            return lost
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def wait(self, futures: Sequence[Future[Outcome]]) -> Sequence[Future[Outcome]]:
        done, _ = wait(futures, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            self.pool.shutdown(wait=True)  # all shards of the pool have ended then
            self.pool = self._start()
            return futures
        return list(done)

    def loss(self, error: Exception) -> str | None:
        return LOST if isinstance(error, BrokenProcessPool) else None


def begin_worker(level: int) -> None:
    """Show lines of this level, and end this worker when its parent says so or dies.

    It would wait forever otherwise, or write next to a resumed run.
    """
    set_level(level)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see _Processes.submit
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
