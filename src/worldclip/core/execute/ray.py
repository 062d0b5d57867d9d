"""Run shards on a Ray cluster: the same functions over the same shards, for the same bytes.

The nodes share the directories that the work reads and writes, at the same paths, and have the same worldclip.  Ray
starts tasks and reports lost ones; the loop decides what to try again.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worldclip.core.artifacts import Json
from worldclip.core.errors import UserError, first_line, require
from worldclip.core.execute.loop import Executor, run_shards
from worldclip.core.execute.shards import Outcome, Shard, ShardWork

VERSION = version("worldclip")
QUEUED_PER_CPU = 2  # tasks in Ray per CPU: one runs and one waits, so that no CPU waits for this process
POLL_S = 1.0  # longest wait for a task before the CPUs of the cluster are counted again
CONNECT_S = 10.0  # timeout of the check that a cluster listens
CANCEL_S = 10.0  # longest wait for the end of a killed task
OBJECT_STORE_BYTES = 128 * 2**20  # size in a Ray started here: only functions and reports pass through it


@dataclass(kw_only=True)
class RayExecutor(Executor):
    """Tasks of one CPU each on a Ray cluster.

    address: of a running cluster (`auto`: the one of this machine); default: RAY_ADDRESS, else this process starts its
    own Ray on this machine.  workers: number of shards in parallel; default: one per CPU of the cluster, as it grows.
    """

    address: str | None = None
    workers: int | None = None

    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        """Do as Executor._run.  Raises UserError if no cluster answers, or its nodes do not share `work.done_dir`."""
        ray = connect(self.address, self.workers)
        work = replace(work, done_dir=work.done_dir.absolute())
        work.done_dir.mkdir(parents=True, exist_ok=True)
        token = work.done_dir / f".{uuid.uuid4().hex}.token"
        token.touch()
        tasks = _Tasks(ray, work, Place(token, VERSION, Path.cwd()), self.workers)
        try:
            # by falling size: a large shard that starts last would delay the end
            by_size = sorted(todo, key=lambda shard: -(shard.fingerprint.get("size") or 0))
            yield from run_shards(by_size, tasks)
        finally:
            tasks.cancel()
            token.unlink(missing_ok=True)


class _Tasks:
    """The tasks now in Ray."""

    def __init__(self, ray: Any, work: ShardWork, place: Place, workers: int | None) -> None:
        self._ray = ray
        self._work = ray.put(work)  # sent once, not with each task
        self._place = place
        self._workers = workers
        # a task that is lost is started again by the loop: Ray itself would try for ever after a lack of memory
        self._task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(run_on_node)
        self._refs: dict[Future[Outcome], Any] = {}  # a task is cancelled by its ObjectRef: Future.cancel stops nothing
        self._count_cpus()

    def _count_cpus(self) -> None:
        self._num_cpus = max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def num_at_once(self, *, is_retry: bool) -> int:
        return min(self._num_cpus, self._workers) if self._workers else QUEUED_PER_CPU * self._num_cpus

    def submit(self, shard: Shard) -> Future[Outcome]:
        ref = self._task.remote(self._work, shard, self._place)
        future: Future[Outcome] = ref.future()
        self._refs[future] = ref
        return future

    def wait(self, futures: Sequence[Future[Outcome]]) -> Sequence[Future[Outcome]]:
        done, _ = wait(futures, POLL_S, FIRST_COMPLETED)
        if not done:
            self._count_cpus()
        for future in done:
            del self._refs[future]
        return list(done)

    def loss(self, error: Exception) -> str | None:
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError):  # every shard would fail in the same way
            raise error.cause from error
        is_loss = isinstance(error, errors.OutOfMemoryError | errors.WorkerCrashedError | errors.NodeDiedError)
        if is_loss or isinstance(error, errors.ObjectLostError):
            return f"{first_line(error)}; if memory ran out, use fewer --workers; see Ray's logs"
        return None

    def cancel(self) -> None:
        """Kill the running tasks, so that nothing writes after this call."""
        refs = list(self._refs.values())
        for ref in refs:
            self._ray.cancel(ref, force=True)
        if refs:
            self._ray.wait(refs, num_returns=len(refs), timeout=CANCEL_S)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process runs, and what a node needs to work for it."""

    token: Path  # a file next to the markers; a node that does not see it would write to another disk
    version: str  # version of worldclip
    folder: Path  # working directory of this process, which relative paths (a recipe's too) start from


def run_on_node(work: ShardWork, shard: Shard, place: Place) -> Outcome:
    """Work on one shard on a node, in the driver's working directory, unless an earlier try has finished the shard.

    Raises UserError that names this node and what it lacks.
    """
    node = os.uname().nodename
    if place.version != VERSION:
        raise UserError(f"node {node} has worldclip {VERSION}, this process {place.version}; use one version")
    for path in (place.token, place.folder):
        if not path.exists():
            raise UserError(
                f"node {node} does not see {path}; all nodes of the cluster must share the run's folder and the "
                "working directory at the same paths"
            )
    os.chdir(place.folder)
    return {"pairs": 0} if work.is_finished(shard) else work.run(shard)


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
    before = signal.getsignal(signal.SIGTERM)
    host, _, port = target.rpartition(":")
    try:
        if port.isdigit():  # Ray itself would wait for minutes and end the process
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=target, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--executor ray: no cluster answers at {target!r} ({first_line(error)}); start it (ray start "
            "--head), or unset RAY_ADDRESS to have one started on this machine"
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's handler would exit with code 15 and no word
    return ray
