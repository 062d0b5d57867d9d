"""Files of a pool, in a local folder or at any URL that fsspec supports (s3, gs, http, hf, memory, ...)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
import numpy as np

from worldclip.contracts import layout
from worldclip.core import job_files
from worldclip.core.artifacts import MANIFEST, digest, read_manifest
from worldclip.core.errors import BadShard, Unreadable, UserError
from worldclip.core.hub_errors import explain, explain_answer
from worldclip.core.inputs import is_remote
from worldclip.core.job import Job, Record
from worldclip.core.local_path import require_local
from worldclip.core.regular_file import NotRegular, open_regular, open_regular_fd, read_regular
from worldclip.core.remote import WHOLE_BYTES, patiently, read_whole
from worldclip.core.remote import read_range as read_remote_range
from worldclip.kernels import read_at

_ENTRIES_OF_ALL = (".*", job_files.DONE, "report.json", "report.html")  # what any tool leaves in an unfinished folder


class PoolFile(NamedTuple):
    """One file of a pool: its path relative to the root, with `/`, and its local path or URL."""

    name: str
    path: str


def check_own(folder: Path, job: str, entries: Sequence[str]) -> None:
    """Raise UserError if --out is a run or holds files of others: a tool removes files there that it did not write.

    job: name of the tool's Job, which the manifest of a finished folder states; older manifests do not.  entries: names
    or patterns of what the tool writes into the folder; an unfinished folder with anything else is another tool's.
    """
    require_local(folder, "--out")
    if layout.is_run(folder):
        raise UserError(f"--out {str(folder)!r} is a run, whose files would be removed; choose an empty directory")
    names = sorted({path.name for path in folder.iterdir()} - {".lock"}) if folder.is_dir() else []
    manifest = read_manifest(folder)
    problem = None
    if names and not job_files.lock(folder).exists():
        problem = "is not empty and was not written by worldclip"
    elif manifest is not None and manifest.get("job", job) != job:
        problem = f"was written by {manifest['job']}, not by {job}"
    elif manifest is None:
        patterns = (*entries, *_ENTRIES_OF_ALL)
        for name in names:
            if not any(fnmatchcase(name, pattern) for pattern in patterns):
                problem = f"holds {name!r}, which {job} does not write"
                break
    if problem is not None:
        raise UserError(f"--out {str(folder)!r} {problem}; choose an empty directory")


def check_source(job: Job, source: str) -> None:
    """Raise UserError if a job's folder is finished and another pool than the one it was made from would replace it.

    source: where the pool lies, which the manifest keeps.  A pool at another place is the same one if it was moved, and
    may have grown: one of its files is as it was.
    """
    manifest = read_manifest(job.folder)
    if manifest is None or manifest.get("source", source) == source:
        return
    is_same = not _fingerprints(manifest["inputs"]).isdisjoint(_fingerprints(job.inputs))
    if not is_same and job.changes(manifest["inputs"], job.inputs):
        raise UserError(f"{job.folder} was made from {manifest['source']}, not from {source}; choose another --out")


def _fingerprints(inputs: Record) -> set[str]:
    """Return a digest of each file in groups of inputs, {group: {name: fingerprint}}."""
    fingerprints = set()
    for group in inputs.values():
        if isinstance(group, Mapping):
            fingerprints |= {digest([name, record]) for name, record in group.items() if isinstance(record, dict)}
    return fingerprints


def check_run_folder(run_dir: Path, stages: Iterable[str]) -> None:
    """Raise UserError for a run of a newer format, and where a stage would remove files of no run."""
    job_files.refuse_newer_run(run_dir)
    for stage in stages:
        folder = layout.stage_dir(run_dir, stage)
        is_theirs = folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists()
        # The lock comes last: another call with --shards takes it before it writes into a stage's folder.
        if is_theirs and not (job_files.lock(run_dir).exists() or layout.run_record(run_dir).exists()):
            raise UserError(
                f"--out {run_dir} is no run and holds a folder {stage!r}, whose files the stage {stage} would remove; "
                "choose another folder for the run"
            )


class FileBytes:
    """The bytes of a file, read by position: a local one stays open, a remote one is read whole.

    It is closed when nobody refers to it any more.  It is never mapped: a map of a file that is cut while it is read
    would end the process.  `read` is safe to call from several threads.
    """

    def __init__(self, path: str) -> None:
        """Open a local path or URL.  Raises BadShard if it cannot be read."""
        self._fd = -1
        with _saying_refusals():
            if is_remote(path):
                self.window = read_at.window_of_bytes(np.frombuffer(read_whole(path), np.uint8))
            else:
                self._fd = open_regular_fd(path)
                self.window = read_at.window_of_file(self._fd, os.fstat(self._fd).st_size)
        self.size = self.window.size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # modules are gone when the process exits
        if self._fd >= 0:
            close(self._fd)

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start` on, fewer if the file ends before.  Raises BadShard if it cannot be read.

        A file that was replaced or removed is read on.
        """
        with _saying_refusals():
            length = self.size if self._fd < 0 else os.fstat(self._fd).st_size
            if not 0 <= start < length:  # an index may state any place
                return b""
            size = max(0, min(size, length - start))
            if self._fd < 0:
                return self.window.data[start : start + size].tobytes()
            return os.pread(self._fd, size, start)

    def gather(self, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (values uint8, offsets (n + 1,) int64) of the slices [start, end), best in ascending order."""
        values, offsets, at = gather(self.window, starts, ends)
        if at >= 0:
            raise self.cut(at)
        return values, offsets

    def cut(self, at: int) -> BadShard:
        """Return the error of a file that has no byte at `at` any more, or does not give it."""
        try:
            os.pread(self._fd, 1, at)
        except OSError as error:
            return unreadable(error)
        size = os.fstat(self._fd).st_size
        return BadShard(
            f"cut off while it was read: {size:,} bytes are left of {self.size:,}; run again once it is whole"
        )


def gather(
    window: read_at.Window, starts: np.ndarray, ends: np.ndarray, prefix: bytes = b""
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return (values, offsets, first position that could not be read or -1) of slices, each with `prefix` before it."""
    before = np.frombuffer(prefix, np.uint8)
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts + len(before), out=offsets[1:])
    values = np.empty(offsets[-1], np.uint8)
    return values, offsets, int(read_at.gather(window, starts, ends, before, offsets, values))


def read_bytes(path: str) -> bytes:
    """Return the whole file.  Raises BadShard if it cannot be read."""
    with _saying_refusals():
        return read_whole(path) if is_remote(path) else read_regular(path)


@contextmanager
def open_file(path: str, *, reads_ahead: bool = True, size: int | None = None) -> Iterator[BinaryIO]:
    """Open a file for reads at any position.  Raises BadShard if it cannot be read.

    reads_ahead: False requests exactly the ranges that are read, for readers that ask for large ones.  size: bytes of
    the file as it was listed, if most of it is read; a small file at a URL is then read with one request.
    """
    with _saying_refusals():
        if not is_remote(path):
            file: BinaryIO = open_regular(path)  # closed below
        elif size is not None and size <= WHOLE_BYTES:
            file = io.BytesIO(read_whole(path))
        else:
            is_exact = not reads_ahead and not path.startswith("http")  # some HTTP servers know no ranges
            options = {"cache_type": "none"} if is_exact else {}
            files, place = fsspec.url_to_fs(path)
            file = patiently(lambda: files.open(place, "rb", **options))
    with _saying_refusals(only_answers=True), file:  # other errors may be those of a file that the caller writes
        yield file


def read_range(path: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on, fewer if the file ends before.  Raises BadShard if it cannot be read."""
    if not is_remote(path):
        return FileBytes(path).read(start, size)
    with _saying_refusals():
        return read_remote_range(path, start, start + size)


def unreadable(error: Exception) -> BadShard:
    """Return the error of a file that the system or its server does not let us read.

    A missing path, or one that is no file, is broken; other errors (EIO, ESTALE, EMFILE, EACCES) say nothing of it.
    """
    is_broken = isinstance(error, FileNotFoundError | IsADirectoryError | NotRegular)
    kind = BadShard if is_broken and explain_answer(error) is None else Unreadable
    return kind(f"cannot be read ({explain(error)})")


@contextmanager
def _saying_refusals(only_answers: bool = False) -> Iterator[None]:
    """Raise BadShard with the reason for what the system or a server refuses.

    Errors of a store's library without an answer, such as a lost network, are no OSError.  only_answers: let errors of
    the system pass.
    """
    try:
        yield
    except Exception as error:
        is_of_system = isinstance(error, OSError) and not only_answers
        if not is_of_system and explain_answer(error) is None:
            raise
        raise unreadable(error) from error
