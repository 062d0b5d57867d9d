"""The bracket around every piece of work that leaves files, and the context that the stages of a run share.

A *job* fills one folder.  Its manifest is written last and says that the folder is done, from which inputs and under
which config; a job whose manifest holds the present ones is skipped.  Stages, `pool check`, `pool dedup`, `pool wat`
and `embed` are all jobs.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO, TypeAlias, TypeVar

from worldclip.core import job_files
from worldclip.core.artifacts import (
    MANIFEST,
    Json,
    code_digest,
    manifest_digest,
    read_json,
    read_manifest,
    remove,
    sweep,
    write_json,
    write_manifest,
)
from worldclip.core.changes import Change, changed_inputs, changed_keys, name_changes
from worldclip.core.console import say
from worldclip.core.errors import UserError, naming
from worldclip.core.execute import Executor, LocalExecutor
from worldclip.core.execute import Report as Report
from worldclip.core.fields import section_name
from worldclip.core.local_path import require_local
from worldclip.core.printable import counted
from worldclip.core.settings import deciding, load_config, read_sections

ALL_SHARDS = slice(None)
STAGE_ABOVE = "a stage above it runs"  # why a stage would run, in a dry run
_ASKED_FOR = "asked for by --from"
Record: TypeAlias = Mapping[str, Any]  # JSON-able
_Config = TypeVar("_Config")
_ALWAYS_KEPT = (MANIFEST, "report.json", "report.html", ".lock")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The result of a job's work, for the bracket."""

    report: Record  # written as report.json
    counts: Record  # the manifest's counts
    outputs: Sequence[str | Path] | None = None
    """Files that belong to the folder, and folders that belong to it whole; anything else is stale and removed.  None:
    the work itself decides what stays."""
    manifest: Record = field(default_factory=dict)
    """Further keys of the manifest, for the stages below; `digests` of small outputs are part of its own digest."""


@dataclass
class Job:
    """One piece of work, the folder that it fills, and what decides its output."""

    name: str  # name in messages and in the manifest
    folder: Path
    config: Record
    read_inputs: Callable[[], Record]
    changes: Callable[[Record, Record], list[Change]] = changed_inputs
    """Names what changed between two records of the inputs."""
    keeps_result: bool = False
    """No file of it ever changes under its name, so the older result stays until the new manifest is there."""

    @cached_property
    def inputs(self) -> Record:
        """Fingerprints of all that is read.  Raises UserError if a stage above is not finished."""
        return self.read_inputs()

    @property
    def digest(self) -> str:
        """The digest that the manifest will have, where it covers no output."""
        return manifest_digest(self.config, self.inputs)

    def reason_to_run(self) -> str | None:
        """Return why the work must run, naming the changed key or input; None if it is finished and unchanged."""
        manifest = read_manifest(self.folder)
        if manifest is None:
            return "not finished before" if self.folder.exists() else "new"
        changes = changed_keys(manifest["config"], self.config)
        if changes:
            return "; ".join(map(str, changes))
        changes = self.changes(manifest["inputs"], self.inputs)
        return f"its inputs changed: {name_changes(changes)}" if changes else None

    def run(self, work: Callable[[], Result]) -> Report:
        """Do the work, remove stale files, write report.json, and the manifest last.  Raises StageFailed.

        The manifest has the inputs from before the work, so the next call works again if one changed meanwhile.
        """
        self.inputs  # noqa: B018  known before the work
        if not self.keeps_result:
            (self.folder / MANIFEST).unlink(missing_ok=True)  # not done until the new one is written
        with naming(self.folder):
            result = work()
        if not self.keeps_result:
            self._remove_stale(result)
        write_json(self.folder / "report.json", result.report)
        record: dict[str, Any] = {"config": self.config, "inputs": self.inputs, "counts": result.counts}
        code = code_digest(self.name)  # recorded and not compared: a finished stage stays finished
        if code is not None:
            record["code"] = code
        write_manifest(self.folder, **record, job=self.name, **result.manifest)
        if self.keeps_result:
            self._remove_stale(result)
        return dict(result.report)

    def _remove_stale(self, result: Result) -> None:
        if result.outputs is not None:
            remove_stale(self.folder, [*result.outputs, *(self.folder / name for name in _ALWAYS_KEPT)])

    def run_once(self, work: Callable[[], Result]) -> Report:
        """Do the work unless it is finished and unchanged; return the report.  The caller holds the folder's lock."""
        if self.reason_to_run() is None:
            say(self.name, "is finished and unchanged")
            return dict(read_json(self.folder / "report.json"))
        return self.run(work)


def files_per_shard(folder: Path, names: Iterable[str], suffix: str) -> list[str]:
    """Return the files of a job, one per shard; a path as text takes a third of the memory of a Path."""
    return [f"{folder}/{name}{suffix}" for name in names]


def remove_stale(folder: Path, keep: Iterable[str | Path]) -> None:
    """Remove what is in `folder` and not in `keep`, so that it holds exactly what its manifest says.

    keep: files, and folders that are kept whole.  Links to folders stay.
    """
    root = os.path.abspath(folder)
    wanted = {os.path.abspath(path) for path in keep}
    files = []
    folders = []
    for place, names, file_names in os.walk(root):
        names[:] = [name for name in names if f"{place}/{name}" not in wanted]
        folders += [f"{place}/{name}" for name in names]
        paths = [f"{place}/{name}" for name in file_names]
        files += [path for path in paths if path not in wanted]
    # Markers go first: a marker of outputs that are gone would say that they are finished.
    for path in sorted(files, key=lambda path: f"/{job_files.DONE}/" not in path.removeprefix(root)):
        os.unlink(path)
    for path in reversed(folders):
        with suppress(OSError):  # not empty, or a link
            os.rmdir(path)


@dataclass(kw_only=True)
class Run:
    """The context of every stage: RUN, the recipe's sections by class, the executor, and which stages are asked for."""

    dir: Path
    sections: Mapping[str, Any]  # section -> its config, or the raw table of a TOML file
    folder: Path | None = None  # folder of that TOML file: relative paths in its tables start there
    executor: Executor = field(default_factory=LocalExecutor)
    only: frozenset[str] | None = None  # stages to run; None: all
    restarted: frozenset[str] = frozenset()  # stages that run whether or not they are finished: --from
    part: slice | None = None  # work only on these shards of the stage and leave it unfinished
    is_dry: bool = False  # no stage works: each says what would run, or adds to `preflight` if there is one
    preflight: list[str] | None = None  # of a dry run: what would stop a stage
    after_stage: Callable[[Path], object] | None = None  # called with `dir` after each stage that ran
    reports: dict[str, Report] = field(default_factory=dict)  # of the stages that ran, or what a dry run says of each
    write_recipe: Callable[[], object] | None = None  # writes RUN/recipe.toml, unless that is done
    current_stage: str | None = None  # whose turn it is
    _is_stale: bool = False  # dry run: a stage above would run

    @classmethod
    def of(cls, run_dir: Path, *configs: Any, executor: Executor | None = None) -> Run:
        """Return a context of these sections; the others have their defaults."""
        sections = {section_name(type(config)): config for config in configs}
        return cls(dir=run_dir, sections=sections, executor=executor or LocalExecutor())

    @classmethod
    def open(cls, source: Path, executor: Executor | None = None) -> Run:
        """Return the context of an existing RUN, from its recipe.toml, or of a .toml file.

        Raises UserError if there is none, and for unknown sections.
        """
        sections = read_sections(source)
        executor = executor or LocalExecutor()
        if source.is_dir():  # its recipe.toml holds absolute paths
            return cls(dir=source, sections=sections, executor=executor)
        return cls(dir=source.parent, sections=sections, folder=source.parent, executor=executor)

    def section(self, cls: type[_Config]) -> _Config:
        """Return a section of the recipe by its config class."""
        value = self.sections.get(section_name(cls), {})
        if isinstance(value, cls):
            return value
        config: _Config = load_config(cls, value, folder=self.folder)
        return config

    def deciding(self, output: str) -> Json:
        """Return the keys of all sections that decide a stage or a part of one (core/settings.Decides)."""
        keys = {name: deciding(config, output) for name, config in self.sections.items()}
        return {name: values for name, values in keys.items() if values}

    def job(
        self,
        name: str,
        inputs: Callable[[Run], Record],
        config: Record | None = None,
        changes: Callable[[Record, Record], list[Change]] = changed_inputs,
    ) -> Job:
        """Return the job of a stage; config: default what `deciding` says."""
        keys = self.deciding(name) if config is None else config
        return Job(name, self.dir / name, keys, lambda: inputs(self), changes)

    def asks_for(self, stage: str) -> bool:
        """Return whether a stage is to run."""
        return self.only is None or stage in self.only

    def stage(
        self,
        job: Job,
        *,
        problems: Callable[[Run], Iterable[str]],
        work: Callable[[Run, Job], Result],
        work_on_part: Callable[[Run, slice], Sequence[Report]] | None = None,
        plan: Callable[[Run], Iterable[str]] = lambda run: (),
    ) -> bool:
        """Run the job of a stage unless it is not asked for, or finished and unchanged.  Return whether it ran.

        problems: yields everything that would stop the stage.  A run asks all its stages before the first one works,
        and each again when its turn comes: what the stages above have left is asked only if `above_is_done`.
        work_on_part: for --shards.  plan: yields lines for a dry run.
        """
        name = job.name
        if not self.asks_for(name):
            return False
        if self.preflight is not None:
            manifest = None if name in self.restarted else read_manifest(job.folder)
            if manifest is None or changed_keys(manifest["config"], job.config):
                self.preflight += problems(self)
            return False
        if self.is_dry:
            self._say_plan(job, problems, plan)
            return False
        self.current_stage = name
        reason = self._reason_to_run(job)
        if reason is None:
            say(name, "is finished and unchanged")
            return False
        faults = list(problems(self))
        if faults:
            raise UserError(faults)
        self.keep_recipe()
        if self.part is not None:
            assert work_on_part is not None, "--shards is a flag only of stages that work shard by shard"
            (job.folder / MANIFEST).unlink(missing_ok=True)
            reports = work_on_part(self, self.part)
            say(name, f"{counted(len(reports), 'shard')} done. Rerun without --shards to finish the stage.")
            return True
        say(name, f"starts ({reason})")
        started_at = time.perf_counter()
        if name in self.restarted:
            if self.restarted.isdisjoint(self.reports):  # the first of them: the others are not finished any more
                for stage in self.restarted:
                    (self.dir / stage / MANIFEST).unlink(missing_ok=True)
            remove(job.folder)  # with the markers of its shards, which say what made a file, and not by which formula
        self.reports[name] = job.run(lambda: work(self, job))
        say(name, f"finished in {time.perf_counter() - started_at:.1f} s")
        if self.after_stage is not None:
            self.after_stage(self.dir)
        return True

    @property
    def above_is_done(self) -> bool:
        """Whether the stages above have left what they will leave in this call."""
        return self.preflight is None and not self._is_stale

    def keep_recipe(self) -> None:
        """Write RUN/recipe.toml, once: a stage is about to work under the recipe, or all have been asked."""
        if self.write_recipe is not None:
            self.write_recipe()
            self.write_recipe = None

    def _reason_to_run(self, job: Job) -> str | None:
        if job.name in self.restarted:
            return _ASKED_FOR
        return STAGE_ABOVE if self._is_stale else job.reason_to_run()

    def _say_plan(
        self, job: Job, problems: Callable[[Run], Iterable[str]], plan: Callable[[Run], Iterable[str]]
    ) -> None:
        """Say whether the stage would run, and why; record it, with what would stop the stage."""
        reason = self._reason_to_run(job)
        report: Report = {"would_run": reason is not None, "reason": reason, "plan": [], "problems": []}
        if reason is None:
            say(job.name, "is finished and unchanged")
        else:
            say(job.name, f"would run: {reason}")
            report["plan"] = list(plan(self))
            for line in report["plan"]:
                say(job.name, line)
            report["problems"] = list(problems(self))
            self._is_stale = True
        self.reports[job.name] = report


@contextmanager
def lock_folder(folder: Path, is_shared: bool = False) -> Iterator[None]:
    """Let one process work in a folder at a time, or any number of calls with --shards (`is_shared`).

    The lock goes with the process, however it ends.
    """
    require_local(folder, "--out")
    path = job_files.lock(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(path, "a+")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); change that, or give another --out") from error
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise UserError(f"{folder} is in use by {holder}; wait for it, stop it, or give another --out") from error
        if is_shared:
            _write_holder(lock, "calls with --shards")
            yield
            return
        _write_holder(lock, f"process {os.getpid()}")
        sweep(folder)
        try:
            yield
        finally:
            _write_holder(lock, "")


def _write_holder(lock: TextIO, holder: str) -> None:
    """Write who holds a lock, unbuffered: a close would try again to write what a full disk has refused."""
    with naming(Path(lock.name)):
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), holder.encode())
