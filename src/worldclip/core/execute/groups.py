"""Several short shards in one task: less traffic with the driver, and one wait for the disk.

Every shard keeps its own marker, failure and tries.  A shard that lost a worker runs in a task without others.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from worldclip.core import inputs, remote
from worldclip.core.artifacts import synced_together
from worldclip.core.execute.shards import (
    WAITED,
    Failure,
    Outcome,
    Report,
    Shard,
    ShardQueue,
    ShardWork,
    is_marked,
)

TASK_S = 0.5  # minimum seconds of a task of several shards; a kill repeats at most this work
# Minimum seconds for shards at URLs: only the first one of a task is waited for, the next is read during the work.
REMOTE_TASK_S = 5.0
MAX_SHARDS_PER_TASK = 1_000
TASKS_LEFT_PER_CPU = 4  # minimum tasks in the rest of the queue, so that all CPUs end together


class GroupDone(NamedTuple):
    """The result of a task."""

    outcomes: list[Outcome]
    """Of its shards; a report has what the driver needs now, the marker has all of it."""
    work_s: float


class GroupSizes:
    """How many shards the next task takes, from what shards took lately."""

    def __init__(self) -> None:
        self._shard_s: deque[float] = deque(maxlen=1000)

    def add(self, done: GroupDone) -> None:
        """Take note of how long the shards of a task took."""
        self._shard_s.append(done.work_s / len(done.outcomes))

    def of_next(self, next_shard: Shard, num_workers: int, num_queued: int, least_s: float = 0.0) -> int:
        """Return the number of shards: 1 until a task ended; least_s: that a task shall take."""
        if not self._shard_s:
            return 1
        task_s = max(REMOTE_TASK_S if inputs.is_remote(next_shard.path) else TASK_S, least_s)
        num_shards = int(min(MAX_SHARDS_PER_TASK, task_s / max(1e-6, statistics.fmean(self._shard_s))))
        return max(1, min(num_shards, num_queued // (TASKS_LEFT_PER_CPU * num_workers)))


def take_group(queue: ShardQueue, tries: Counter[str], num_shards: int) -> tuple[Shard, ...]:
    """Take the shards of a task from the queue and count the try; a shard that lost a worker gets a task by itself."""
    group = [queue.popleft()]
    if not tries[group[0].name]:
        while queue and len(group) < num_shards and not tries[queue.peek().name]:
            group.append(queue.popleft())
    tries.update(shard.name for shard in group)
    return tuple(group)


def run_group(work: ShardWork, shards: Sequence[Shard]) -> GroupDone:
    """Run one task: all outputs are on the disk before the first marker is written.

    A shard that another copy of the task or an earlier try finished is not run again.
    """
    started_at = time.perf_counter()
    outcomes: list[Outcome] = []
    with synced_together():
        for shard, following in zip(shards, [*shards[1:], None], strict=True):
            if following is not None and is_marked(work.fn, "reads_input") and inputs.is_remote(following.path):
                remote.read_ahead(following.path, following.fingerprint.get("size"))
            report = work.finished_report(shard)
            outcomes.append(_brief(work.run(shard) if report is None else report))
    return GroupDone(outcomes, time.perf_counter() - started_at)


def _brief(outcome: Outcome) -> Outcome:
    if isinstance(outcome, Failure):
        return outcome
    report: Report = {name: outcome[name] for name in ("pairs", WAITED) if name in outcome}
    return report
