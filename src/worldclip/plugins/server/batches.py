"""Shared batches: requests that come while the model is busy run together in its next batch, on one thread.

No request waits for others to come: an idle thread takes what is there.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Work = Callable[[Sequence[Item]], Sequence[Answer]]
MAX_RETRY_AFTER_S = 60


class Busy(RuntimeError):
    """Too much is waiting; `retry_after` is the number of seconds in which about that much gets done."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many requests are waiting; try again in {retry_after} s")


@dataclass(frozen=True, slots=True)
class _Job(Generic[Item, Answer]):
    """The items of one request."""

    items: Sequence[Item]
    future: Future[list[Answer]] = field(default_factory=Future)


class SharedBatches(Generic[Item, Answer]):
    """One thread that does the work of many requests, as many items at once as fit a batch.

    work: returns one answer per item.  max_batch: items of a batch; a larger request is a batch of its own.
    max_waiting: items that may wait.  on_batch: called with the number of items of each batch.
    """

    def __init__(
        self,
        work: Work[Item, Answer],
        *,
        max_batch: int,
        max_waiting: int,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._on_batch = on_batch
        self._jobs: deque[_Job[Item, Answer]] = deque()
        self._num_waiting = 0
        self._seconds_of: dict[type, float] = {}  # per item, in the latest batch with items of a type
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="worldclip-model", daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """The number of items that wait."""
        return self._num_waiting

    def submit(self, items: Sequence[Item]) -> Future[list[Answer]]:
        """Return the future answers to the items of one request.  Raises Busy where too many items wait already."""
        job: _Job[Item, Answer] = _Job(items)
        with self._changed:
            if self._jobs and self._num_waiting + len(items) > self._max_waiting:
                waiting = itertools.chain.from_iterable(job.items for job in self._jobs)
                seconds = sum(self._seconds_of.get(type(item), 0.0) for item in waiting)
                raise Busy(min(MAX_RETRY_AFTER_S, max(1, math.ceil(seconds))))
            self._jobs.append(job)
            self._num_waiting += len(items)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        while True:
            jobs = self._next_jobs()
            size = sum(len(job.items) for job in jobs)
            self._on_batch(size)
            start = time.perf_counter()
            self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
            seconds = (time.perf_counter() - start) / max(1, size)
            for job in jobs:
                self._seconds_of |= dict.fromkeys(map(type, job.items), seconds)

    def _next_jobs(self) -> list[_Job[Item, Answer]]:
        """Return the jobs of the next batch, oldest first; waits for one."""
        with self._changed:
            while not self._jobs:
                self._changed.wait()
            jobs: list[_Job[Item, Answer]] = []
            size = 0
            while self._jobs and (not jobs or size + len(self._jobs[0].items) <= self._max_batch):
                jobs.append(self._jobs.popleft())
                size += len(jobs[-1].items)
            self._num_waiting -= size
        return jobs

    def _answer(self, jobs: Sequence[_Job[Item, Answer]]) -> None:
        """Work on all jobs at once; where that fails, on one at a time, so that one request's error stays its own."""
        if not jobs:
            return
        items: list[Item] = []
        for job in jobs:
            items += job.items
        try:
            answers = self._work(items)
        except BaseException as error:  # noqa: BLE001  a panic of a tokenizer in Rust is no Exception; the thread goes on
            if len(jobs) == 1:
                failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
                jobs[0].future.set_exception(failure)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            end = start + len(job.items)
            job.future.set_result(list(answers[start:end]))
            start = end
