"""Processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldclip.errors import UserError
from worldclip.execute.shards import MAX_TRIES, Outcome, Report, Shard, ShardWork, lost_worker, map_shards
from worldclip.formats import digest


@dataclass(kw_only=True)
class LocalExecutor:
    """Processes of this machine (spawned); one worker runs in this process."""

    workers: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"--workers is {self.workers}; it is the number of processes and must be at least 1")

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> list[Report]:
        """See Executor."""
        work = ShardWork(fn=fn, done_dir=done_dir, key=digest(key))
        return map_shards(self._run, work, shards, label, self.quiet)

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        if min(self.workers, len(todo)) > 1:
            yield from self._run_processes(work, todo)
        else:
            for shard in todo:
                yield shard.name, work.run(shard)

    def _run_processes(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        tries = {shard.name: 0 for shard in todo}
        remaining = list(todo)
        while remaining:
            broken: list[Shard] = []
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(
                min(self.workers, len(remaining)), mp_context=context, initializer=end_with_parent
            )
            futures: dict[Future[Outcome], Shard] = {}
            try:
                for shard in remaining:
                    futures[pool.submit(work.run, shard)] = shard
                    tries[shard.name] += 1
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        shard = futures[future]
                        if not isinstance(future.exception(), BrokenProcessPool):
                            yield shard.name, future.result()
                        elif tries[shard.name] < MAX_TRIES:
                            broken.append(shard)
                        else:
                            yield shard.name, lost_worker()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            remaining = broken


def end_with_parent() -> None:
    """A worker whose parent was killed ends at once: left alone it would wait for work for ever, or write beside the
    run that goes on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
