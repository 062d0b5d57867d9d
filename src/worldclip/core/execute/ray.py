"""A Ray cluster: the same functions over the same shards, for the same bytes.

The nodes share the folders that the work reads and writes, at the same paths, and have the same worldclip.  Ray starts
tasks and says which were lost; what is tried again, and what is started twice, is decided here.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import worldclip
from worldclip.core.artifacts import digest
from worldclip.core.errors import UserError, require
from worldclip.core.execute.shards import (
    MAX_TRIES,
    Outcome,
    Report,
    Reports,
    Shard,
    ShardWork,
    is_repeatable,
    lost_worker,
    map_shards,
)

QUEUED_PER_CPU = 2  # tasks with Ray for each CPU: one runs, one waits, so that no CPU waits for this process
POLL_S = 1.0  # how often late shards and new nodes are looked for where no task ends
LATE_MEDIANS, LATE_S = 5, 60.0  # a shard is late after this many median times, and this long at least
KNOCK_S = 10.0  # a cluster answers in this time
CANCEL_S = 10.0  # a cancelled task may end by itself; after this it is killed
LOCAL_STARTS = 3
OBJECT_STORE_BYTES = 128 * 2**20  # of a Ray started here: only functions and reports pass through it


@dataclass(kw_only=True)
class RayExecutor:
    """Tasks of one CPU each on a Ray cluster.

    address: of a running cluster (`auto`: the one of this machine); default: RAY_ADDRESS, and without it a Ray of this
    process's own, on this machine.  workers: shards at a time; default: one a CPU of the cluster, as it grows.
    """

    address: str | None = None
    workers: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers is {self.workers}; it is the number of shards at a time and must be at least 1")

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> Reports:
        """See Executor.  Raises UserError where no cluster answers, or its nodes do not share `done_dir`."""
        work = ShardWork(fn=fn, done_dir=done_dir.absolute(), key=digest(key))
        return map_shards(self._run, work, shards, label, self.quiet)

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        ray = connect(self.address, self.workers)
        with _place(work.done_dir) as place:
            flights = _Flights(ray, work, place)
            try:
                yield from self._fly(ray, flights, deque(_largest_first(todo)))
            finally:
                flights.land()

    def _fly(self, ray: Any, flights: _Flights, queue: deque[Shard]) -> Iterator[tuple[str, Outcome]]:
        tries: Counter[str] = Counter()
        while queue or flights.running:
            cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
            at_a_time = min(cpus, self.workers) if self.workers else QUEUED_PER_CPU * cpus
            while queue and len(flights.running) < at_a_time:
                shard = queue.popleft()
                tries[shard.name] += 1
                flights.start(shard)
            if not queue and len(flights.running) < min(cpus, at_a_time):
                flights.start_late_ones_again()
            for shard, outcome in flights.wait():
                if outcome is not None:
                    yield shard.name, outcome
                elif tries[shard.name] < MAX_TRIES:
                    queue.append(shard)
                else:
                    yield shard.name, lost_worker()


@dataclass(slots=True)
class _Flight:
    shard: Shard
    started_at: float


class _Flights:
    """The tasks that Ray has now: at most two of a shard, whose first outcome counts."""

    def __init__(self, ray: Any, work: ShardWork, place: _Place) -> None:
        self.running: dict[Any, _Flight] = {}  # ObjectRef -> shard
        self._ray, self._may_repeat = ray, is_repeatable(work.fn)
        self._work = ray.put(work)  # once, not with each task
        self._place = place
        # a task that is lost is started again by RayExecutor: Ray itself would try for ever after a lack of memory
        self._task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(run_on_node)
        self._cancelled: list[Any] = []
        self._durations_s: deque[float] = deque(maxlen=1000)

    def start(self, shard: Shard) -> None:
        self.running[self._task.remote(self._work, shard, self._place)] = _Flight(shard, time.monotonic())

    def start_late_ones_again(self) -> None:
        """A second copy of each shard that takes far longer than others did, on a CPU that has nothing else to do."""
        if not self._may_repeat or not self._durations_s:
            return
        late_s = max(LATE_S, LATE_MEDIANS * statistics.median(self._durations_s))
        copies = Counter(flight.shard.name for flight in self.running.values())
        now = time.monotonic()
        for flight in list(self.running.values()):
            if copies[flight.shard.name] == 1 and now - flight.started_at > late_s:
                self.start(flight.shard)

    def wait(self) -> list[tuple[Shard, Outcome | None]]:
        """Shards that ended by now, with their outcome; None where the worker or its node was lost.

        Waits until one ends, at most POLL_S.
        """
        ready, _ = self._ray.wait(list(self.running), num_returns=1, timeout=POLL_S)
        ready, _ = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=0) if ready else ([], [])
        found = []
        for ref in ready:
            if (flight := self.running.pop(ref, None)) is None:  # its copy was faster
                continue
            outcome = self._outcome(ref)
            others = [other for other, its in self.running.items() if its.shard.name == flight.shard.name]
            if others and not isinstance(outcome, dict):  # the other copy may do better
                continue
            for other in others:
                del self.running[other]
                self._cancel(other)
            self._durations_s.append(time.monotonic() - flight.started_at)
            found.append((flight.shard, outcome))
        return found

    def _outcome(self, ref: Any) -> Outcome | None:
        errors = self._ray.exceptions
        lost = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError)
        try:
            outcome: Outcome = self._ray.get(ref)
        except lost:
            return None
        except errors.RayTaskError as error:  # fatal: it would fail every shard alike
            raise error.cause from error
        return outcome

    def _cancel(self, ref: Any) -> None:
        self._ray.cancel(ref)
        self._cancelled.append(ref)

    def land(self) -> None:
        """Leave no task behind: what still runs is cancelled, then killed, so that nothing writes after this call."""
        for ref in list(self.running):
            self._cancel(ref)
        left = self._cancelled
        if left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=CANCEL_S)
        for ref in left:
            self._ray.cancel(ref, force=True)
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=CANCEL_S)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a node must have to work for this process."""

    token: Path
    """A file beside the markers; a node that does not see it would write where nobody looks."""
    version: str
    """Of worldclip."""
    folder: Path
    """Where this process is: what relative paths, a recipe's too, begin with."""

    def enter(self) -> None:
        """Be where the process that maps is.  Raises UserError that names this node and what it lacks."""
        where = os.uname().nodename
        if worldclip.__version__ != self.version:
            raise UserError(
                f"node {where} has worldclip {worldclip.__version__}, this process {self.version}; install the same"
            )
        if not self.token.exists():
            raise UserError(
                f"node {where} does not see {self.token.parent}; all nodes of the cluster must share the run's folder "
                "at the same path"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UserError(
                f"node {where} has no folder {self.folder} ({error.strerror}); run worldclip from a folder that all "
                "nodes have"
            ) from error


def run_on_node(work: ShardWork, shard: Shard, place: _Place) -> Outcome:
    """One task.  A shard that another copy or an earlier try finished is not done again."""
    place.enter()
    report = work.finished_report(shard)
    return work.run(shard) if report is None else report


@contextmanager
def _place(done_dir: Path) -> Iterator[_Place]:
    done_dir.mkdir(parents=True, exist_ok=True)
    token = done_dir / f".{uuid.uuid4().hex}.token"
    token.touch()
    try:
        yield _Place(token, worldclip.__version__, Path.cwd())
    finally:
        token.unlink(missing_ok=True)


def _largest_first(todo: Sequence[Shard]) -> list[Shard]:
    """A large shard that starts last is what all others wait for."""
    return sorted(todo, key=lambda shard: -shard.fingerprint.get("size", 0))


def connect(address: str | None, workers: int | None) -> Any:
    """The module ray, connected: to what this process is connected to already, else to `address` (see RayExecutor)."""
    ray = require("ray", extra="ray")
    if ray.is_initialized():
        return ray
    asked = address or os.environ.get("RAY_ADDRESS") or "local"
    if asked.startswith("ray://"):
        raise UserError(
            f"--executor ray: {asked} is an address of Ray's client, whose machine does not share the run's folder; "
            "run worldclip on a node of the cluster (`ray job submit` does) with --executor ray:auto"
        )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    if asked == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        _knock(asked)
        _init(ray, asked, options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--executor ray: no cluster answers at {asked!r} ({str(error).splitlines()[0]}); start it (ray start "
            "--head), or unset RAY_ADDRESS to have one started on this machine"
        ) from error
    return ray


def _init(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Ray gives a machine 30 s to start it, which a busy one may need more than once."""
    for tries_left in reversed(range(LOCAL_STARTS if address == "local" else 1)):
        try:
            ray.init(address=address, **options)
            return
        except Exception as error:
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nothing listens at HOST:PORT: Ray itself would wait for minutes and end the process."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
