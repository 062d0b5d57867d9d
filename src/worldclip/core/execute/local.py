"""Run shards in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import digest
from worldclip.core.errors import UserError
from worldclip.core.execute.groups import GroupDone, GroupSizes, run_group, take_group
from worldclip.core.execute.shards import (
    MAX_TRIES,
    Outcome,
    Report,
    Reports,
    Shard,
    ShardQueue,
    ShardWork,
    cause_of_death,
    lost_worker,
    map_shards,
)

QUEUED_PER_WORKER = 2  # one shard runs and one waits, so that no worker waits for this process


@dataclass(kw_only=True)
class LocalExecutor:
    """Maps over shards with spawned processes of this machine; a single worker runs in this process."""

    workers: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}; the number of processes must be at least 1")

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> Reports:
        """Do as Executor.map."""
        work = ShardWork(fn=fn, done_dir=done_dir, key=digest(key))
        return map_shards(self._run, work, shards, label, self.quiet)

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        if min(self.workers, len(todo)) <= 1:
            yield from _run_here(work, ShardQueue(todo))
            return
        queue, tries = ShardQueue(todo), Counter[str]()
        while queue:
            yield from self._run_until_broken(work, queue, tries)

    def _run_until_broken(
        self, work: ShardWork, queue: ShardQueue, tries: Counter[str]
    ) -> Iterator[tuple[str, Outcome]]:
        """Run until the queue is empty or a worker dies, which ends all workers; their shards are queued again."""
        num_workers = min(self.workers, len(queue))
        is_broken = False
        running: dict[Future[GroupDone], tuple[Shard, ...]] = {}
        sizes = GroupSizes()
        lost: list[str] = []
        workers: set[BaseProcess] = set()
        others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=end_with_parent)
        try:
            while running or (queue and not is_broken):
                while queue and not is_broken:
                    # A shard whose worker died runs by itself: if it kills a worker again, no other shard suffers.
                    if len(running) >= (1 if tries[queue.peek().name] else QUEUED_PER_WORKER * num_workers):
                        break
                    group = take_group(queue, tries, sizes.of_next(queue.peek(), num_workers, len(queue)))
                    try:
                        with interrupts_held_back():
                            running[pool.submit(run_group, work, group)] = group
                    except BrokenProcessPool:
                        is_broken = True
                        tries.subtract(shard.name for shard in group)
                        for shard in group:
                            queue.append(shard)
                workers.update(multiprocessing.active_children())
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    group = running.pop(future)
                    if not isinstance(future.exception(), BrokenProcessPool):
                        sizes.add(future.result())
                        yield from zip((shard.name for shard in group), future.result().outcomes, strict=True)
                        for shard in group:
                            del tries[shard.name]
                        continue
                    is_broken = True
                    for shard in group:
                        if tries[shard.name] < MAX_TRIES:
                            queue.append(shard)
                        else:
                            lost.append(shard.name)
        except KeyboardInterrupt:
            for worker in {*multiprocessing.active_children()} - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        # A shard that lost a worker runs by itself, so that the exit code, known after shutdown, is its worker's.
        for name in lost:
            yield name, lost_worker(cause_of_death(worker.exitcode for worker in workers))


def _run_here(work: ShardWork, queue: ShardQueue) -> Iterator[tuple[str, Outcome]]:
    sizes = GroupSizes()
    while queue:
        group = take_group(queue, Counter(), sizes.of_next(queue.peek(), 1, len(queue)))
        done = run_group(work, group)
        sizes.add(done)
        yield from zip((shard.name for shard in group), done.outcomes, strict=True)


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Deliver Ctrl-C and SIGTERM after the block.  Workers that it starts inherit the mask: the terminal signals all
    processes, and a worker that is just importing would print a traceback.  This process ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this worker when its parent says so or dies: else it would wait forever, or write next to a resumed run."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # see interrupts_held_back
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
