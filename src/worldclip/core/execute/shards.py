"""Define what all executors share: shards, and what a worker does with one.

A shard's marker, `<stage>/done/<shard>.json`, is written after its outputs.  It holds the input's fingerprint, the
digest of the config that its outputs depend on, and the shard's report.
"""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from worldclip.core import inputs, job_files
from worldclip.core.artifacts import Json, digest, read_json, write_json
from worldclip.core.errors import BadShard, Unreadable, UserError, disk_error
from worldclip.core.safe_path import UnsafeName, is_safe_name

Report: TypeAlias = Json
_begun: set[tuple[Path, str]] = set()  # the maps of which this process has worked on a shard
OPEN_FILES = 8_192  # limit of open files per process; macOS begins with 256, Linux with 1,024


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of the input, or one unit of work named like a file."""

    name: str  # relative path with its extension; names every output of this shard, and is checked
    path: str  # path or URL of the input
    fingerprint: Json = field(default_factory=dict)
    """Identifies the input, see artifacts.fingerprint; a changed one re-runs this shard."""

    def __post_init__(self) -> None:
        """Raise UnsafeName for a name that leads out of the folder of outputs: others write listings of files."""
        if not is_safe_name(self.name):
            raise UnsafeName(f"{self.name!r} is not a path below the folder of its outputs")

    @classmethod
    def of_file(cls, name: str, path: str, recorded_as: str | None = None) -> Shard:
        """Return the shard of an input file as it is now; recorded_as: `path` of its fingerprint (default: name)."""
        return cls(name=name, path=path, fingerprint=inputs.fingerprint_of(path, recorded_as or name))


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a shard failed."""

    reason: str
    is_broken: bool = False  # the file is damaged; another try would not help


Outcome: TypeAlias = Report | Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardWork:
    """The work of one map on a shard, in any process: call the function, then write the marker."""

    fn: Callable[[Shard], Report]
    done_dir: Path
    key: str

    def run(self, shard: Shard) -> Outcome:
        """Process a shard; raises only what would fail every shard: a full or read-only disk, a missing package.

        Returns `pairs` of its report, and its CPU time `cpu_s`, None for the first shard of this map in this process.
        """
        raise_file_limit()
        is_first = (self.done_dir, self.key) not in _begun
        _begun.add((self.done_dir, self.key))
        began_at = time.process_time()
        try:
            report = self.fn(shard)
            self.finish(shard, report)
        except ImportError:
            raise
        except Exception as error:  # only this shard fails; its reason is listed and the exit code is 1
            fatal = disk_error(error, self.done_dir.parent)
            if fatal is not None:
                raise fatal from error
            if isinstance(error, BadShard | UserError):
                reason = str(error)
            else:
                reason = "".join(traceback.format_exception(error)).strip()
            return Failure(reason, isinstance(error, BadShard) and not isinstance(error, Unreadable))
        cpu_s = None if is_first else time.process_time() - began_at
        return {"pairs": report.get("pairs", 0), "cpu_s": cpu_s}

    def finish(self, shard: Shard, report: Report) -> None:
        """Write the marker of a shard, whose outputs are on the disk."""
        write_json(self.marker_path(shard), {"fingerprint": shard.fingerprint, "key": self.key, "report": report})

    def marker_path(self, shard: Shard) -> Path:
        return job_files.marker_in(self.done_dir, shard.name)

    def is_finished(self, shard: Shard) -> bool:
        """Return whether a shard is finished with this fingerprint and config.

        Removes an outdated marker: if the process is killed while the outputs change, the shard is not finished.
        """
        path = self.marker_path(shard)
        if not path.exists():
            return False
        marker = read_json(path)
        if marker["fingerprint"] == shard.fingerprint and marker["key"] == self.key:
            return True
        path.unlink(missing_ok=True)
        return False


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


def raise_file_limit() -> None:
    """Let this process open OPEN_FILES files, as far as the system allows: a mapped matcher per language stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
