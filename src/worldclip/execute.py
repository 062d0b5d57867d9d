"""Run stages, and one pure function over shards: what is done is skipped, what fails fails alone and is listed.

A stage is done when its manifest holds the present config and inputs.  A shard's marker,
`<stage>/done/<shard>.json`, is written after its outputs and holds the input's fingerprint, the digest of the config
that matters, and the shard's report.  Same order, same bytes for any number of workers.
"""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worldclip.errors import BadShard, StageFailed, UserError
from worldclip.formats import MANIFEST, digest, read_json, read_manifest, write_json

if TYPE_CHECKING:
    from worldclip.config import Recipe

Report = dict[str, Any]
MAX_TRIES = 3  # a worker that was killed (out of memory, say) takes its shards down with it: try these again


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of the input, or one unit of work named like a file."""

    name: str
    """Relative path with its extension; names every output of this shard."""
    path: str
    """Where it is."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """What the input is known by, see formats.fingerprint; a change of it re-runs this shard."""


class Stage(Protocol):
    """What recipe.py asks of a stage's module."""

    def run(self, recipe: Recipe, run_dir: Path, executor: Executor) -> Report: ...
    def inputs(self, recipe: Recipe, run_dir: Path) -> dict[str, Any]: ...
    def relevant_config(self, recipe: Recipe) -> dict[str, Any]: ...


class Executor(Protocol):
    """Anything that maps: same order, same report, same failure list."""

    def map(
        self, fn: Callable[[Shard], Report], shards: Sequence[Shard], *, label: str, done_dir: Path, key: Any
    ) -> list[Report]: ...


def marker_path(done_dir: Path, shard: Shard) -> Path:
    return done_dir / f"{shard.name}.json"


def finished_report(done_dir: Path, shard: Shard, key: str) -> Report | None:
    """The report of a shard that is done with this fingerprint and config, else None."""
    path = marker_path(done_dir, shard)
    if not path.exists():
        return None
    marker = read_json(path)
    same = marker["fingerprint"] == shard.fingerprint and marker["key"] == key
    return marker["report"] if same else None


def _run_shard(fn: Callable[[Shard], Report], shard: Shard, done_dir: Path, key: str) -> Report:
    marker_path(done_dir, shard).unlink(missing_ok=True)
    report = fn(shard)
    marker = {"fingerprint": shard.fingerprint, "key": key, "report": report}
    write_json(marker_path(done_dir, shard), marker)
    return report


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
        """fn over `shards`; reports in shard order.  Raises StageFailed at the end where shards failed.

        key: any JSON-able record of what decides the output besides the shard itself (config, upstream digests).
        A report's `pairs` feeds the progress bar's pairs per second.
        """
        key = digest(key)
        reports: dict[str, Report] = {}
        for shard in shards:
            if (report := finished_report(done_dir, shard, key)) is not None:
                reports[shard.name] = report
        todo = [shard for shard in shards if shard.name not in reports]
        failures: dict[str, str] = {}
        with _progress(label, len(shards), self.quiet) as bar:
            task = bar.add_task(label, total=len(shards), completed=len(reports), rate="")
            run = self._run_inline if min(self.workers, len(todo)) <= 1 else self._run_processes
            pairs = 0
            for name, outcome in run(fn, todo, done_dir, key):
                if isinstance(outcome, BaseException):
                    failures[name] = _reason(outcome)
                else:
                    reports[name] = outcome
                    pairs += int(outcome.get("pairs", 0))
                elapsed_s = bar.tasks[0].elapsed or 0.0
                bar.update(task, advance=1, rate=f"{pairs / elapsed_s:,.0f} pairs/s" if pairs and elapsed_s else "")
        if failures:
            raise StageFailed(label, failures)
        return [reports[shard.name] for shard in shards]

    def _run_inline(
        self, fn: Callable[[Shard], Report], todo: Sequence[Shard], done_dir: Path, key: str
    ) -> Iterator[tuple[str, Report | Exception]]:
        for shard in todo:
            try:
                yield shard.name, _run_shard(fn, shard, done_dir, key)
            except OSError as error:
                if _is_fatal(error):
                    raise
                yield shard.name, error
            except Exception as error:  # noqa: BLE001  one shard fails alone; its reason is listed and the exit code is 1
                yield shard.name, error

    def _run_processes(
        self, fn: Callable[[Shard], Report], todo: Sequence[Shard], done_dir: Path, key: str
    ) -> Iterator[tuple[str, Report | Exception]]:
        tries = {shard.name: 0 for shard in todo}
        remaining = list(todo)
        while remaining:
            broken: list[Shard] = []
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(
                min(self.workers, len(remaining)), mp_context=context, initializer=_end_with_parent
            )
            futures: dict[Future[Report], Shard] = {}
            try:
                for shard in remaining:
                    futures[pool.submit(_run_shard, fn, shard, done_dir, key)] = shard
                    tries[shard.name] += 1
                pending = set(futures)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        shard, error = futures[future], future.exception()
                        if isinstance(error, BrokenProcessPool) and tries[shard.name] < MAX_TRIES:
                            broken.append(shard)
                        elif isinstance(error, OSError) and _is_fatal(error):
                            raise error
                        else:
                            yield shard.name, error if isinstance(error, Exception) else future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
            remaining = broken


def _end_with_parent() -> None:
    """A worker whose parent was killed ends at once: left alone it would wait for work for ever, or write beside the
    run that goes on.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _is_fatal(error: OSError) -> bool:
    """A full disk or a folder that may not be written fails every shard alike: say it once."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _reason(error: BaseException) -> str:
    if isinstance(error, BadShard | UserError):
        return str(error)
    if isinstance(error, BrokenProcessPool):
        return f"its worker process died {MAX_TRIES} times (out of memory?); try fewer workers"
    return "".join(traceback.format_exception(error)).strip()


def _progress(label: str, total: int, quiet: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal or total == 0,
    )


def say(stage: str, message: str) -> None:
    """One line about a stage, on standard error: standard output is for results."""
    Console(stderr=True, highlight=False).print(f"[bold]{stage:>9}[/bold]  {escape(message)}", soft_wrap=True)


def run_stage(stage: Stage, name: str, recipe: Recipe, run_dir: Path, executor: Executor) -> bool:
    """Run a stage unless it is finished and unchanged; says which, and why.  True where it ran."""
    reason = why_run(stage, name, recipe, run_dir)
    if reason is None:
        say(name, "is finished and unchanged")
        return False
    say(name, f"starts ({reason})")
    started_at = time.perf_counter()
    (run_dir / name / MANIFEST).unlink(missing_ok=True)  # not done until the new one is written
    stage.run(recipe, run_dir, executor)
    say(name, f"finished in {time.perf_counter() - started_at:.1f} s")
    return True


def why_run(stage: Stage, name: str, recipe: Recipe, run_dir: Path) -> str | None:
    """Why a stage must run, in words that name the changed key or input; None where it need not."""
    manifest = read_manifest(run_dir / name)
    if manifest is None:
        return "not finished before" if (run_dir / name).exists() else "new"
    changes = changed_keys(manifest["config"], stage.relevant_config(recipe))
    if changes:
        return "; ".join(changes)
    changes = changed_keys(manifest["inputs"], stage.inputs(recipe, run_dir))
    return f"its inputs changed: {', '.join(changes[:3])}" if changes else None


def changed_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """`section.key was X, is Y` for each difference of two JSON-able records."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            change
            for key in keys
            for change in changed_keys(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    if digest(old) == digest(new):
        return []
    short_old, short_new = (text if len(text) <= 60 else text[:57] + "..." for text in (str(old), str(new)))
    return [f"{prefix} was {short_old}, is {short_new}"]


class RunLock:
    """One run at a time in a RUN folder; the lock goes with the process, however it ends."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._file: Any = None

    def __enter__(self) -> RunLock:
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            self._file = open(self.run_dir / ".lock", "a+")  # held until __exit__
        except OSError as error:
            raise UserError(
                f"--out {self.run_dir} cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise UserError(
                f"{self.run_dir} is in use by {holder}; wait for it, stop it, or give another --out"
            ) from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()}")
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.truncate(0)
        self._file.close()


def remove_stale(folder: Path, keep: Sequence[Path]) -> None:
    """Drop files of shards that are no longer in the pool, so that a folder holds exactly what its manifest says."""
    wanted = set(keep)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
