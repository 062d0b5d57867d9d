"""Shared batches: requests that come while the model is busy run together in its next batch, on one thread.

No request waits for others to come: an idle thread takes what is there.  Requests larger than their share of a batch
take turns in a third of it, so that small ones keep two thirds of what they have without large ones.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Work = Callable[[Sequence[Item]], Sequence[Answer]]
MAX_RETRY_AFTER_S = 60
SHARES = 8  # a request of up to an eighth of a batch is small, however many wait
CLIENT: ContextVar[str] = ContextVar("CLIENT", default="")
"""Whose request is being answered: clients take turns."""


class Busy(RuntimeError):
    """Too much is waiting; `retry_after` is the number of seconds in which about that much gets done."""

    def __init__(self, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many requests are waiting; try again in {retry_after} s")


@dataclass(slots=True, eq=False)
class _Job(Generic[Item, Answer]):
    """The items of one request: the first `num_taken` were in a batch, the rest waits."""

    client: str
    items: Sequence[Item]
    future: Future[list[Answer]] = field(default_factory=Future)
    answers: list[Answer] = field(default_factory=list)
    num_taken: int = 0

    @property
    def num_waiting(self) -> int:
        return len(self.items) - self.num_taken


@dataclass(slots=True)
class _Piece(Generic[Item, Answer]):
    """Items of one request that are in one batch."""

    job: _Job[Item, Answer]
    items: Sequence[Item]


class SharedBatches(Generic[Item, Answer]):
    """One thread that does the work of many requests, as many items at once as fit a batch.

    work: returns one answer per item.  max_batch: items of a batch.  max_waiting: items that may wait; the first
    request of a client is always taken.  divides: whether a request may be divided over batches; otherwise a larger one
    is a batch of its own.  on_batch: called with the number of items of each batch.
    """

    def __init__(
        self,
        work: Work[Item, Answer],
        *,
        max_batch: int,
        max_waiting: int,
        divides: bool = True,
        on_batch: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._divides = divides
        self._on_batch = on_batch
        self._jobs: list[_Job[Item, Answer]] = []  # with items that wait; a job that had its turn moves to the end
        self._num_small = 0  # items of small requests in the latest batch
        self._seconds_of: dict[type, float] = {}  # per item, in the latest batch with items of a type
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="worldclip-model", daemon=True).start()

    @property
    def num_waiting(self) -> int:
        """The number of items that wait."""
        return sum(job.num_waiting for job in self._jobs)

    def submit(self, items: Sequence[Item]) -> Future[list[Answer]]:
        """Return the future answers to the items of one request; cancelled, its items that wait are never computed.

        Raises Busy where too many items wait, some of the same client.
        """
        job: _Job[Item, Answer] = _Job(CLIENT.get(), items)
        with self._changed:
            is_waiting = any(other.client == job.client for other in self._jobs)
            if is_waiting and self.num_waiting + len(items) > self._max_waiting:
                seconds = 0.0
                for other in self._jobs:
                    for item in other.items[other.num_taken :]:
                        seconds += self._seconds_of.get(type(item), 0.0)
                raise Busy(min(MAX_RETRY_AFTER_S, max(1, math.ceil(seconds))))
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def _run(self) -> None:
        while True:
            pieces = self._next_pieces()
            size = sum(len(piece.items) for piece in pieces)
            self._on_batch(size)
            start = time.perf_counter()
            self._answer(pieces)
            seconds = (time.perf_counter() - start) / max(1, size)
            for piece in pieces:
                self._seconds_of |= dict.fromkeys(map(type, piece.items), seconds)

    def _next_pieces(self) -> list[_Piece[Item, Answer]]:
        """Return the items of the next batch; waits for one."""
        with self._changed:
            while True:
                self._jobs = [job for job in self._jobs if not job.future.done()]  # cancelled, or with an error
                if self._jobs:
                    break
                self._changed.wait()
            num_of: Counter[str] = Counter()
            turns: list[tuple[int, int]] = []  # the first request of each client, then the second of each, and so on
            for i, job in enumerate(self._jobs):
                turns.append((num_of[job.client], i))
                num_of[job.client] += 1
            pieces = []
            for job, count in self._choose([self._jobs[i] for _, i in sorted(turns)]):
                pieces.append(_Piece(job, job.items[job.num_taken : job.num_taken + count]))
                job.num_taken += count
                self._jobs.remove(job)
                if job.num_waiting:
                    self._jobs.append(job)
        return pieces

    def _choose(self, jobs: Sequence[_Job[Item, Answer]]) -> list[tuple[_Job[Item, Answer], int]]:
        """Return the number of items of each request in the next batch: of small ones all, large ones take turns."""
        share = max(1, self._max_batch // min(len(jobs), SHARES))
        small = []
        large = []
        for job in jobs:
            if self._divides and job.num_waiting > share:
                large.append(job)
            else:
                small.append(job)
        room = self._max_batch
        if large:
            room = max(1, room * 2 // 3)
        chosen: list[tuple[_Job[Item, Answer], int]] = []
        size = 0
        for job in small:
            if chosen and size + job.num_waiting > room:
                break
            chosen.append((job, job.num_waiting))
            size += job.num_waiting
        room = self._max_batch - size
        # Clients whose requests the latest batch answered send their next ones while a batch of large requests runs.
        num_small = max(size, self._num_small)
        if num_small:
            room = min(room, max(1, num_small // 2))
        self._num_small = size
        return chosen + _share_out(large, room)

    def _answer(self, pieces: Sequence[_Piece[Item, Answer]]) -> None:
        """Work on all pieces at once; where that fails, on one at a time: one request's error stays its own."""
        items: list[Item] = []
        for piece in pieces:
            items += piece.items
        try:
            answers = self._work(items)
        except BaseException as error:  # noqa: BLE001  a panic of a tokenizer in Rust is no Exception; the thread goes on
            if len(pieces) > 1:
                for piece in pieces:
                    self._answer([piece])
                return
            failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            if pieces[0].job.future.set_running_or_notify_cancel():
                pieces[0].job.future.set_exception(failure)
            return
        start = 0
        for piece in pieces:
            end = start + len(piece.items)
            job = piece.job
            job.answers += answers[start:end]
            if len(job.answers) == len(job.items) and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.answers)
            start = end


def _share_out(jobs: Sequence[_Job[Item, Answer]], room: int) -> list[tuple[_Job[Item, Answer], int]]:
    """Return the number of items of each request in `room` places: clients take turns, and a client's requests do."""
    queues: dict[str, deque[int]] = {}
    for i, job in enumerate(jobs):
        queues.setdefault(job.client, deque()).append(i)
    counts = [0] * len(jobs)
    clients = deque(queues)
    while room and clients:
        client = clients.popleft()
        i = queues[client].popleft()
        counts[i] += 1
        room -= 1
        if counts[i] < jobs[i].num_waiting:
            queues[client].append(i)
        if queues[client]:
            clients.append(client)
    return [(job, count) for job, count in zip(jobs, counts, strict=True) if count]
