"""Define what all executors share: shards, the markers of finished shards, and the order of a map over them.

A shard's marker, `<stage>/done/<shard>.json`, is written after its outputs.  It holds the input's fingerprint, the
digest of the config that its outputs depend on, and the shard's report.
"""

from __future__ import annotations

import functools
import itertools
import resource
import signal
import sys
import time
import traceback
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, overload

from worldclip.core import inputs, job_files, remote
from worldclip.core.artifacts import Json, digest, read_json, write_json_last
from worldclip.core.console import progress_bar, say, say_detail
from worldclip.core.errors import BadShard, InputChanged, StageFailed, Unreadable, UserError, disk_error
from worldclip.core.safe_path import UnsafeName, is_safe_name
from worldclip.core.same_name import refuse_equal_names

Report: TypeAlias = Json
RETRY = "run the same command: only they are tried again"
NUM_NAMED = 10  # damaged files that a message names
WAITED = "waited"  # key of a report on its way to the driver: how long the store was busy
MAX_TRIES = 3  # attempts per shard whose worker was lost, for example out of memory
OPEN_FILES = 8_192  # limit of open files per process; macOS begins with 256, Linux with 1,024


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of the input, or one unit of work named like a file."""

    name: str  # relative path with its extension; names every output of this shard, and is checked
    path: str  # path or URL of the input
    fingerprint: Json = field(default_factory=dict)
    """Identifies the input, see artifacts.fingerprint; a changed one re-runs this shard."""
    stamp: inputs.Stamp = field(default=(), compare=False)
    """The file's when `fingerprint` was taken: as long as it is the same, the contents are not hashed again."""

    def __post_init__(self) -> None:
        """Raise UnsafeName for a name that leads out of the folder of outputs: others write listings of files."""
        if not is_safe_name(self.name):
            raise UnsafeName(f"{self.name!r} is not a path below the folder of its outputs")

    @classmethod
    def of_file(cls, name: str, path: str, recorded_as: str | None = None) -> Shard:
        """Return the shard of an input file as it is now; recorded_as: `path` of its fingerprint (default: name)."""
        stamp = inputs.stamp_of(path)  # before the fingerprint: a change between the two is noticed
        return cls(name=name, path=path, fingerprint=inputs.fingerprint_of(path, recorded_as or name), stamp=stamp)

    def present_stamp(self) -> object:
        """Return what the file system says of the input now; it moves with every change."""
        if "files" in self.fingerprint:  # a group of files: their names, sizes and modification times
            return [inputs.stamp_of(f"{self.path}/{name}") for name, *_ in self.fingerprint["files"]]
        if inputs.is_pinned(self.path):
            return self.fingerprint
        if inputs.is_remote(self.path):
            inputs.forget_listing(self.path)
            return self.present_fingerprint()
        return inputs.stamp_of(self.path)

    def present_fingerprint(self) -> Json:
        """Return the fingerprint of the input as it is now."""
        if "files" in self.fingerprint:
            names = [name for name, *_ in self.fingerprint["files"]]
            return {"files": [[name, *inputs.stamp_of(f"{self.path}/{name}")[2:4]] for name in names]}
        if inputs.is_pinned(self.path):
            return self.fingerprint
        return inputs.fingerprint_of(self.path, self.fingerprint["path"])


class Executor(Protocol):
    """Maps a function over shards: every executor has the same order, reports and failures."""

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> Sequence[Report]:
        """Run fn over `shards`; returns the reports in shard order.  Raises StageFailed at the end if shards failed.

        fn is pure except for its output files and can be pickled.  key: a JSON-able record of all that the output
        depends on besides the shard (config, upstream digests).  `pairs` in a report feeds the progress bar.
        """
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a shard failed."""

    reason: str
    is_damage: bool = False
    """Whether the reader of the shard says that its contents are bad; any other error says nothing about them."""


Outcome: TypeAlias = Report | Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """The work of one map on a shard, in any process: call the function, then write the marker."""

    fn: Callable[[Shard], Report]
    done_dir: Path
    key: str

    def run(self, shard: Shard) -> Outcome:
        """Process a shard; raises only what would fail every shard: a full or read-only disk, a missing package."""
        raise_file_limit()
        try:
            report = read_unchanged(self.fn, shard) if is_marked(self.fn, "reads_input") else self.fn(shard)
            self.finish(shard, report)
        except ImportError:
            raise
        except Exception as error:  # only this shard fails; its reason is listed and the exit code is 1
            fatal = disk_error(error, self.done_dir.parent)
            if fatal is not None:
                raise fatal from error
            return Failure(_reason(error), is_damage=isinstance(error, BadShard) and not isinstance(error, Unreadable))
        wait = remote.take_wait()
        return report if wait is None else {**report, WAITED: wait}

    def finish(self, shard: Shard, report: Report) -> None:
        """Write the marker of a shard, whose outputs are there, once they are on the disk."""
        write_json_last(self.marker_path(shard), {"fingerprint": shard.fingerprint, "key": self.key, "report": report})

    def marker_path(self, shard: Shard) -> Path:
        return job_files.marker_in(self.done_dir, shard.name)

    def finished_report(self, shard: Shard) -> Report | None:
        """Return the report of a shard that is finished with this fingerprint and config, else None.

        Removes an outdated marker: if the process is killed while the outputs change, the shard is not finished.
        """
        path = self.marker_path(shard)
        if not path.exists():
            return None
        marker = read_json(path)
        if marker["fingerprint"] == shard.fingerprint and marker["key"] == self.key:
            report: Report = marker["report"]
            return report
        path.unlink(missing_ok=True)
        return None


@dataclass(frozen=True, slots=True)
class Reports(Sequence[Report]):
    """Reports of finished shards, in shard order, each read from its marker on access.

    Reports of a million shards do not fit into memory: iterate once, before the markers are removed.
    """

    work: ShardWork
    shards: Sequence[Shard]

    def __len__(self) -> int:
        return len(self.shards)

    @overload
    def __getitem__(self, at: int) -> Report: ...
    @overload
    def __getitem__(self, at: slice) -> Reports: ...
    def __getitem__(self, at: int | slice) -> Report | Reports:
        if isinstance(at, slice):
            return Reports(self.work, self.shards[at])
        return self._read(self.shards[at])

    def __iter__(self) -> Iterator[Report]:
        return map(self._read, self.shards)

    def _read(self, shard: Shard) -> Report:
        report: Report = read_json(self.work.marker_path(shard))["report"]
        return report


@dataclass(frozen=True, slots=True)
class Chosen(Sequence[Shard]):
    """Some of the shards, by their positions; each is made when it is asked for, if `shards` makes it then."""

    shards: Sequence[Shard]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> Chosen: ...
    def __getitem__(self, at: int | slice) -> Shard | Chosen:
        return Chosen(self.shards, self.rows[at]) if isinstance(at, slice) else self.shards[self.rows[at]]


class ShardQueue:
    """The shards that an executor has not started: those of `todo` by position, and those that run again."""

    def __init__(self, todo: Sequence[Shard]) -> None:
        self._todo = iter(todo)
        self._ready = deque(itertools.islice(self._todo, 1))  # the next shard, and those that run again
        self._num_queued = len(todo)

    def __len__(self) -> int:
        return self._num_queued

    def peek(self) -> Shard:
        """Return the shard that is next."""
        return self._ready[0]

    def popleft(self) -> Shard:
        """Take the shard that is next."""
        shard = self._ready.popleft()
        self._ready.extendleft(itertools.islice(self._todo, 1))
        self._num_queued -= 1
        return shard

    def append(self, shard: Shard) -> None:
        """Put a shard at the end, to run again."""
        self._ready.append(shard)
        self._num_queued += 1


def map_shards(
    run: Callable[[ShardWork, Sequence[Shard]], Iterator[tuple[str, Outcome]]],
    work: ShardWork,
    shards: Sequence[Shard],
    label: str,
    quiet: bool,
) -> Reports:
    """Return the reports of all shards in their order; `run` processes the unfinished ones in any order.

    Raises StageFailed at the end if shards failed, and UserError before any work where two are one file here.
    """
    rows = array("q", (i for i, shard in enumerate(shards) if work.finished_report(shard) is None))
    todo = shards if len(rows) == len(shards) else Chosen(shards, rows)
    if todo:
        refuse_equal_names(lambda: (shard.name for shard in shards), work.done_dir)
    failures: dict[str, Failure] = {}
    is_wait_told = False
    is_shown = bool(shards) and not quiet and sys.stderr.isatty()
    with progress_bar(label, len(shards), is_shown=is_shown, num_done=len(shards) - len(todo)) as advance:
        pairs, started_at = 0, time.perf_counter()
        for name, outcome in run(work, todo) if todo else ():
            if isinstance(outcome, Failure):
                failures[name] = outcome
                say_detail(label, f"{name}: {outcome.reason}")
            else:
                say_detail(label, f"{name} is done")
                pairs += int(outcome.get("pairs", 0))
                if WAITED in outcome and not is_wait_told:
                    is_wait_told = True
                    say(label, f"{name}: {outcome[WAITED]}")
            rate = f"  {pairs / (time.perf_counter() - started_at):,.0f} pairs/s" if pairs else ""
            advance(1, f"shards{rate}")
    if failures:
        raise StageFailed(label, {name: failure.reason for name, failure in failures.items()}, _remedy(failures))
    return Reports(work, shards)


def _remedy(failures: Mapping[str, Failure]) -> str:
    """Return what to do; only files that their reader calls bad are to be removed."""
    damaged = sorted(name for name, failure in failures.items() if failure.is_damage)
    if len(damaged) == len(failures):
        return f"repair or remove these files, then {RETRY}"
    if not damaged:
        return f"keep these files: the errors above do not say that they are damaged; act on the errors, then {RETRY}"
    more = f" and {len(damaged) - NUM_NAMED} more" if len(damaged) > NUM_NAMED else ""
    return (
        f"repair or remove {', '.join(damaged[:NUM_NAMED])}{more}; keep the others, whose errors do not say that they "
        f"are damaged; then {RETRY}"
    )


def add_counts(reports: Iterable[Report], names: Sequence[str]) -> dict[str, int]:
    """Return the sum of each of these counts over all reports, in one pass."""
    total = dict.fromkeys(names, 0)
    for report in reports:
        for name in names:
            total[name] += report[name]
    return total


def mark_done(shard: Shard, report: Report, done_dir: Path, key: Any) -> None:
    """Mark a shard as done for a map with this `key`, which then skips it: another map has written its outputs."""
    ShardWork(fn=lambda shard: {}, done_dir=done_dir, key=digest(key)).finish(shard, report)


def are_done(shards: Sequence[Shard], done_dir: Path, key: Any) -> bool:
    """Return whether a map over `shards` with this `key` has nothing left to do."""
    work = ShardWork(fn=lambda shard: {}, done_dir=done_dir, key=digest(key))
    return all(work.finished_report(shard) is not None for shard in shards)


_Fn = TypeVar("_Fn", bound=Callable[..., Report])


def repeatable(fn: _Fn) -> _Fn:
    """Mark `fn` as safe to run twice at once for one shard: it only leaves files that are written aside and renamed.

    An executor may then start a second copy of a late shard.
    """
    fn.is_repeatable = True  # type: ignore[attr-defined]
    return fn


def reads_input(fn: _Fn) -> _Fn:
    """Mark `fn` as one that reads `shard.path`: its report counts only if the file did not change meanwhile."""
    fn.reads_input = True  # type: ignore[attr-defined]
    return fn


def is_marked(fn: Callable[[Shard], Report], mark: str) -> bool:
    """Return whether `fn`, or what a partial calls, is marked `is_repeatable` or `reads_input`."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, mark, False)


def read_unchanged(fn: Callable[[Shard], Report], shard: Shard) -> Report:
    """Return fn(shard) if the input is the one of the shard's fingerprint before, and untouched until after.

    A file that is touched and stays the same is read again.  Raises InputChanged.
    """
    if inputs.is_remote(shard.path):
        return _read_remote(fn, shard)
    for _ in range(MAX_TRIES):
        before = shard.present_stamp()
        if before != shard.stamp and shard.present_fingerprint() != shard.fingerprint:
            raise InputChanged("changed after it was listed")
        try:
            report = fn(shard)
        except Exception as error:
            if shard.present_stamp() == before:
                raise
            raise InputChanged("changed while it was read") from error
        if shard.present_stamp() == before:
            return report
    raise InputChanged(f"changed while it was read, {MAX_TRIES} times")


def _read_remote(fn: Callable[[Shard], Report], shard: Shard) -> Report:
    """Do as `read_unchanged` for a shard at a URL.

    One question after the work is enough: a file that then has the listed tag had it all the time.
    """
    with remote.kept(shard.path, shard.fingerprint.get("size")):
        try:
            report = fn(shard)
        except Unreadable:
            raise
        except Exception as error:
            if "size" in other_fingerprint(shard):
                raise InputChanged("changed after it was listed") from error
            raise
    other = other_fingerprint(shard)
    if "size" in other:
        raise InputChanged("changed after it was listed")
    if other:
        raise Unreadable(f"cannot be read ({other['unreadable']})")
    return report


def other_fingerprint(shard: Shard) -> Json:
    """Return the fingerprint that a file at a URL has now, {} if it is the listed one.

    It has a size if the file changed, and `unreadable` if the server did not answer, which says nothing of the file.
    """
    if not inputs.is_pinned(shard.path):  # a file at a commit of the hub does not change, and nobody is asked
        inputs.forget_listing(shard.path)
    present = shard.present_fingerprint()
    return {} if present == shard.fingerprint else present


def raise_file_limit() -> None:
    """Let this process open OPEN_FILES files, as far as the system allows: a mapped matcher per language stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def lost_worker(cause: str) -> Failure:
    """Return the failure of a shard whose worker died at each try; cause: of the last time, as `cause_of_death`."""
    return Failure(f"its worker process was lost {MAX_TRIES} times, {cause}")


def cause_of_death(exit_codes: Iterable[int | None], setting: str = "workers") -> str:
    """Return why worker processes were lost, with the remedy.

    exit_codes: of all workers of the pool; -N for signal N.  When one worker dies, the pool ends the others by SIGTERM.
    setting: what decides how many there are.
    """
    codes = sorted((code for code in exit_codes if code), key=lambda code: code == -signal.SIGTERM)
    if not codes:
        return "for an unknown reason; see the system's log"
    if codes[0] > 0:
        return f"with exit code {codes[0]}; see the messages above"
    number = -codes[0]
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if name == "SIGKILL":
        return f"by SIGKILL: the system ends processes so when memory runs out; try fewer {setting}"
    return f"by {name}: {_SIGNALS.get(name, 'another process sent it')}"


_SIGNALS = {
    "SIGBUS": "a file became shorter, or its disk failed or is full, while it was read or written through memory; "
    "look at the disk and at what else writes to these files",
    "SIGSEGV": "a library crashed on its contents; take the shard out of the pool, and report the crash with it",
    "SIGILL": "a library uses instructions that this processor does not have; install one built for it",
    "SIGABRT": "a library gave up; its message stands above",
}
"""Meanings of signals that end a worker because of its shard."""


def _reason(error: BaseException) -> str:
    if isinstance(error, BadShard | UserError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()
