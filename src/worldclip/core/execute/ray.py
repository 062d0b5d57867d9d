"""Run shards on a Ray cluster: the same functions over the same shards, for the same bytes.

The nodes share the directories that the work reads and writes, at the same paths, and have the same worldclip.  Ray
starts tasks and reports lost ones; this module decides what to retry and what to start twice.

A driver starts some hundred tasks a second whatever they do, so a task takes several short shards (groups.py).
"""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
import uuid
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from worldclip.core.artifacts import Json, digest
from worldclip.core.errors import UserError, first_line, require
from worldclip.core.execute.groups import GroupDone, GroupSizes, run_group, take_group
from worldclip.core.execute.ray_nodes import NODE_ID, Nodes, check_port
from worldclip.core.execute.shards import (
    MAX_TRIES,
    Chosen,
    Failure,
    Outcome,
    Report,
    Reports,
    Shard,
    ShardQueue,
    ShardWork,
    is_marked,
    lost_worker,
    map_shards,
)

VERSION = version("worldclip")
QUEUED_PER_CPU = 2  # tasks in Ray per CPU: one runs and one waits, so that no CPU waits for this process
POLL_S = 1.0  # interval of the search for late shards and new nodes while no task ends
LATE_MEDIANS, LATE_S = 5, 60.0  # a shard is late after so many median durations, and after so many seconds
CANCEL_S = 10.0  # a cancelled task may end by itself; after so many seconds it is killed
LOCAL_STARTS = 3
TASKS_PER_S = 350  # limit of task starts, half of the possible rate (benchmarks/results/scale.md)
OBJECT_STORE_BYTES = 128 * 2**20  # size in a Ray started here: only functions and reports pass through it


@dataclass(kw_only=True)
class RayExecutor:
    """Tasks of one CPU each on a Ray cluster.

    address: of a running cluster (`auto`: the one of this machine); default: RAY_ADDRESS, else this process starts its
    own Ray on this machine.  workers: number of shards in parallel; default: one per CPU of the cluster, as it grows.
    """

    address: str | None = None
    workers: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers is {self.workers}; the number of parallel shards must be at least 1")

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> Reports:
        """Do as Executor.map.  Raises UserError if no cluster answers, or its nodes do not share `done_dir`."""
        work = ShardWork(fn=fn, done_dir=done_dir.absolute(), key=digest(key))
        return map_shards(partial(self._run, label), work, shards, label, self.quiet)

    def _run(self, label: str, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        ray = connect(self.address, self.workers)
        with _place(work.done_dir) as place:
            nodes = Nodes(ray, label)
            tasks = _Tasks(ray, work, place)
            try:
                # by falling size: a large shard that starts last would delay the end
                sizes = array("q", (shard.fingerprint.get("size") or 0 for shard in todo))
                by_size = array("q", sorted(range(len(sizes)), key=lambda row: -sizes[row]))
                yield from self._run_tasks(nodes, tasks, ShardQueue(Chosen(todo, by_size)))
                nodes.say_losses()
            finally:
                if not nodes.is_headless:  # nobody is left who could cancel
                    tasks.cancel_all()

    def _run_tasks(self, nodes: Nodes, tasks: _Tasks, queue: ShardQueue) -> Iterator[tuple[str, Outcome]]:
        tries: Counter[str] = Counter()
        while queue or tasks.running:
            nodes.look()
            cpus = max(1, nodes.num_cpus)
            max_tasks = min(cpus, self.workers) if self.workers else QUEUED_PER_CPU * cpus
            while queue and len(tasks.running) < max_tasks:
                num_shards = tasks.sizes.of_next(queue.peek(), cpus, len(queue), least_s=cpus / TASKS_PER_S)
                tasks.start(take_group(queue, tries, num_shards))
            if not queue and len(tasks.running) < min(cpus, max_tasks):
                tasks.copy_late_tasks()
            for shards, outcome in tasks.wait():
                if not isinstance(outcome, LostTask):
                    yield from zip((shard.name for shard in shards), outcome, strict=True)
                    for shard in shards:
                        del tries[shard.name]
                    continue
                for shard in shards:
                    if tries[shard.name] < MAX_TRIES:
                        queue.append(shard)
                        if outcome.node is not None:
                            nodes.count_again(outcome.node)
                    else:
                        yield shard.name, lost_worker(outcome.cause)


class _Task(NamedTuple):
    shards: tuple[Shard, ...]
    started_at: float


class LostTask(NamedTuple):
    """A task whose worker or node was lost, and why, see lost_worker."""

    cause: str
    node: str | None = None  # id of the node that was lost with it, "" if it is not known


class _Tasks:
    """The tasks now in Ray: at most two for the same shards, of which the first outcome counts."""

    def __init__(self, ray: Any, work: ShardWork, place: _Place) -> None:
        self.running: dict[Any, _Task] = {}  # keys are ObjectRefs
        self._ray, self._may_repeat = ray, is_marked(work.fn, "is_repeatable")
        self._work = ray.put(work)  # sent once, not with each task
        self._place = place
        # a task that is lost is started again by RayExecutor: Ray itself would try for ever after a lack of memory
        self._task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(run_on_node)
        self._copied: set[str] = set()  # first shards of the tasks that were started twice
        self._cancelled: list[Any] = []
        self._durations_s: deque[float] = deque(maxlen=1000)  # durations of tasks, time in the queue included
        self.sizes = GroupSizes()

    def start(self, shards: tuple[Shard, ...]) -> None:
        self.running[self._task.remote(self._work, shards, self._place)] = _Task(shards, time.monotonic())

    def copy_late_tasks(self) -> None:
        """Start a second task for each that takes far longer than others did; call while CPUs are idle."""
        if not self._may_repeat or not self._durations_s:
            return
        late_s = max(LATE_S, LATE_MEDIANS * statistics.median(self._durations_s))
        copies = Counter(task.shards[0].name for task in self.running.values())
        now = time.monotonic()
        for task in list(self.running.values()):
            name = task.shards[0].name
            if copies[name] == 1 and now - task.started_at > late_s:
                self._copied.add(name)
                self.start(task.shards)

    def wait(self) -> list[tuple[tuple[Shard, ...], list[Outcome] | LostTask]]:
        """Wait until a task ends, at most POLL_S; returns the shards of those that ended with their outcomes."""
        ready, _ = self._ray.wait(list(self.running), num_returns=1, timeout=POLL_S)
        ready, _ = self._ray.wait(list(self.running), num_returns=len(self.running), timeout=0) if ready else ([], [])
        ended = []
        for ref in ready:
            task = self.running.pop(ref, None)
            if task is None:  # its copy was faster
                continue
            done = self._result(ref)
            others = self._copies_of(task)
            if others and not (isinstance(done, GroupDone) and _all_succeeded(done)):  # the other copy may succeed
                continue
            for other in others:
                del self.running[other]
                self._cancel(other)
            self._durations_s.append(time.monotonic() - task.started_at)
            if isinstance(done, GroupDone):
                self.sizes.add(done)
            ended.append((task.shards, done.outcomes if isinstance(done, GroupDone) else done))
        return ended

    def _copies_of(self, task: _Task) -> list[Any]:
        """Return the ObjectRefs of the running tasks for the same shards."""
        name = task.shards[0].name
        if name not in self._copied:
            return []
        return [other for other, its in self.running.items() if its.shards[0].name == name]

    def _result(self, ref: Any) -> GroupDone | LostTask:
        errors = self._ray.exceptions
        try:
            done: GroupDone = self._ray.get(ref)
        except errors.OutOfMemoryError:
            return LostTask("ended by Ray because the node's memory ran out; use fewer --workers")
        except (errors.NodeDiedError, errors.ObjectLostError) as error:
            node = NODE_ID.search(str(error))
            return LostTask("with its node; see the node's logs", node[1] if node is not None else "")
        except errors.WorkerCrashedError:  # Ray's error does not say by which signal
            return LostTask("by a signal: a crash of a library on its contents, or memory that ran out; see Ray's logs")
        except errors.RayTaskError as error:  # fatal: every shard would fail in the same way
            raise error.cause from error
        return done

    def _cancel(self, ref: Any) -> None:
        self._ray.cancel(ref)
        self._cancelled.append(ref)

    def cancel_all(self) -> None:
        """Cancel the running tasks, then kill those that do not end, so that nothing writes after this call."""
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
    """Where this process runs, and what a node needs to work for it."""

    token: Path  # a file next to the markers; a node that does not see it would write to another disk
    version: str  # version of worldclip
    folder: Path  # working directory of this process, which relative paths (a recipe's too) start from

    def enter(self) -> None:
        """Change to the driver's working directory.  Raises UserError that names this node and what it lacks."""
        node = os.uname().nodename
        if self.version != VERSION:
            raise UserError(f"node {node} has worldclip {VERSION}, this process {self.version}; use one version")
        if not self.token.exists():
            raise UserError(
                f"node {node} does not see {self.token.parent}; all nodes of the cluster must share the run's folder "
                "at the same path"
            )
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UserError(
                f"node {node} has no folder {self.folder} ({error.strerror}); run worldclip from a folder that all "
                "nodes have"
            ) from error


def _all_succeeded(done: GroupDone) -> bool:
    return not any(isinstance(outcome, Failure) for outcome in done.outcomes)


def run_on_node(work: ShardWork, shards: Sequence[Shard], place: _Place) -> GroupDone:
    """Run one task on a node."""
    place.enter()
    return run_group(work, shards)


@contextmanager
def _place(done_dir: Path) -> Iterator[_Place]:
    done_dir.mkdir(parents=True, exist_ok=True)
    token = done_dir / f".{uuid.uuid4().hex}.token"
    token.touch()
    try:
        yield _Place(token, VERSION, Path.cwd())
    finally:
        token.unlink(missing_ok=True)


def connect(address: str | None, workers: int | None) -> Any:
    """Return the module ray, connected: as this process already is, else to `address` (see RayExecutor)."""
    ray = require("ray", extra="ray")
    if ray.is_initialized():
        return ray
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    if target.startswith("ray://"):
        raise UserError(
            f"--executor ray: {target} is an address of Ray's client, whose machine does not share the run's folder; "
            "run worldclip on a node of the cluster (`ray job submit` does) with --executor ray:auto"
        )
    options: Json = {"log_to_driver": False, "logging_level": "WARNING"}
    if target == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        check_port(target)
        _init(ray, target, options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--executor ray: no cluster answers at {target!r} ({first_line(error)}); start it (ray start "
            "--head), or unset RAY_ADDRESS to have one started on this machine"
        ) from error
    return ray


def _init(ray: Any, address: str, options: Json) -> None:
    """Start or join Ray; retry a local start, which Ray gives up after 30 s and a busy machine may exceed.

    SIGTERM keeps its handler: Ray's would exit with code 15 and no word.
    """
    before = signal.getsignal(signal.SIGTERM)
    for tries_left in reversed(range(LOCAL_STARTS if address == "local" else 1)):
        try:
            ray.init(address=address, **options)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
            return
        except Exception as error:
            if not tries_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
