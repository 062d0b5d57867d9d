"""The loop over the shards of a map, the same for processes of this machine and for tasks on a Ray cluster."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict

from worldclip.core.artifacts import digest, read_json
from worldclip.core.console import progress_bar, say
from worldclip.core.errors import StageFailed
from worldclip.core.execute.shards import Failure, Outcome, Report, Shard, ShardWork

REMEDY = (
    "act on the reasons; repair or remove only files that a reason calls damaged or cut off; then run the same "
    "command: only they are tried again"
)
LINE_S = 30  # seconds between two lines of progress
MAX_TRIES = 3  # attempts per shard whose worker was lost, for example out of memory


class Workers(Protocol):
    """Processes that work on shards, somewhere."""

    def num_at_once(self, *, is_retry: bool) -> int:
        """Return how many shards may be with the workers; is_retry: the next one has lost a worker before."""
        ...

    def submit(self, shard: Shard) -> Future[Outcome]:
        """Begin with a shard; the future raises for a lost worker, and what would fail every shard."""
        ...

    def wait(self, futures: Sequence[Future[Outcome]]) -> Sequence[Future[Outcome]]:
        """Wait for some time until a shard has ended; return those that have."""
        ...

    def loss(self, error: Exception) -> str | None:
        """Return why a worker ended while it had a shard, by the error of its future; None for any other error."""
        ...


def run_shards(todo: Sequence[Shard], workers: Workers) -> Iterator[tuple[str, Outcome]]:
    """Yield (name, outcome) of each shard as it ends; those that lose their worker run again, after all others."""
    queue = deque(todo)
    tries: Counter[str] = Counter()
    running: dict[Future[Outcome], Shard] = {}
    while queue or running:
        while queue and len(running) < workers.num_at_once(is_retry=queue[0].name in tries):
            shard = queue.popleft()
            running[workers.submit(shard)] = shard
        for future in workers.wait(list(running)):
            shard = running.pop(future)
            try:
                yield shard.name, future.result()
            except Exception as error:
                loss = workers.loss(error)
                if loss is None:
                    raise
                tries[shard.name] += 1
                if tries[shard.name] < MAX_TRIES:
                    queue.append(shard)
                else:
                    yield shard.name, Failure(f"its worker process was lost {MAX_TRIES} times: {loss}")


@dataclass(frozen=True, slots=True)
class Reports(Sequence[Report]):
    """Reports of finished shards, in shard order, each read from its marker on access.

    Reports of a million shards do not fit into memory: iterate once, before the markers are removed.
    """

    work: ShardWork
    shards: Sequence[Shard]

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, at: Any) -> Any:
        return read_json(self.work.marker_path(self.shards[at]))["report"]


class CpuTime(TypedDict):
    """The CPU time of a map over shards, of which each worker's first one is left out: it loads and compiles code."""

    shards: int
    seconds: float


@dataclass(kw_only=True)
class Executor(ABC):
    """Maps a function over shards: every executor has the same order, reports and failures."""

    quiet: bool = False
    cpu_time: dict[str, CpuTime] = field(default_factory=dict)
    """By label, summed over all maps of this executor."""

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> Reports:
        """Run fn over `shards`; returns the reports in shard order.  Raises StageFailed at the end if shards failed.

        fn is pure except for its output files and can be pickled.  key: a JSON-able record of all that the output
        depends on besides the shard (config, upstream digests).  `pairs` in a report feeds the progress bar.
        """
        work = ShardWork(fn=fn, done_dir=done_dir, key=digest(key))
        todo = [shard for shard in shards if not work.is_finished(shard)]
        failures: dict[str, Failure] = {}
        is_shown = bool(shards) and not self.quiet and sys.stderr.isatty()
        with progress_bar(label, len(shards), is_shown=is_shown, num_done=len(shards) - len(todo)) as advance:
            pairs = 0
            started_at = time.perf_counter()
            line_at = started_at
            outcomes = self._run(work, todo) if todo else ()
            for num_ended, (name, outcome) in enumerate(outcomes, 1):
                if isinstance(outcome, Failure):
                    failures[name] = outcome
                    say(label, f"{name}: {outcome.reason}", is_detail=True)
                else:
                    say(label, f"{name} is done", is_detail=True)
                    pairs += int(outcome["pairs"])
                    if outcome.get("cpu_s") is not None:
                        time_of_label = self.cpu_time.setdefault(label, {"shards": 0, "seconds": 0.0})
                        time_of_label["shards"] += 1
                        time_of_label["seconds"] += outcome["cpu_s"]
                now = time.perf_counter()
                num_left = len(todo) - num_ended
                if num_left and now - line_at >= LINE_S and not self.quiet:
                    line_at = now
                    minutes_left = (now - started_at) / num_ended * num_left / 60
                    progress = f"{len(shards) - num_left:,} of {len(shards):,} done, {minutes_left:,.1f} min left"
                    say(label, progress, is_detail=is_shown)  # a line would break the bar
                note = "shards"
                if pairs:
                    note += f"  {pairs / (now - started_at):,.0f} pairs/s"
                advance(1, note)
        if failures:
            reasons = {name: failure.reason for name, failure in failures.items()}
            broken = frozenset(name for name, failure in failures.items() if failure.is_broken)
            raise StageFailed(label, reasons, REMEDY, broken)
        return Reports(work, shards)

    @abstractmethod
    def _run(self, work: ShardWork, todo: Sequence[Shard]) -> Iterator[tuple[str, Outcome]]:
        """Yield (name, outcome) of the unfinished shards in any order."""
