"""The ways in which work can fail, and the exit code of each (set in cli/); no message holds a credential."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from worldclip.core.redact import redact

NUM_NAMED = 10  # shards with the same reason that a message names
# torch, onnxruntime and zstd say it in words, zlib by Z_MEM_ERROR
NO_MEMORY = re.compile(r"allocate memory|(not enough|out of) memory|bad_alloc|^Error -4 while", re.IGNORECASE)
CLONE_URL = "https://git.example/worldclip.git"  # a placeholder; `make clone-url URL=...` sets it in all files
# a full disk, a full quota, a read-only file system, a file above the limit of a process or of the file system
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class UserError(ValueError):
    """A mistake of the user: all problems at once, each with key, value, meaning and remedy.  Exit code 2."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        if isinstance(problems, str):
            problems = [problems]
        self.problems = list(map(redact, problems))
        super().__init__("\n".join(self.problems))


class BadShard(RuntimeError):
    """A shard that cannot be read (truncated tar, wrong schema); the others finish.  Exit code 1."""

    def __init__(self, reason: str) -> None:
        super().__init__(redact(reason))


class Unreadable(BadShard):
    """A shard that cannot be read now, which says nothing about its contents."""


class WorkStopped(RuntimeError):
    """Work that stopped at a fault of the machine; the same command resumes it.  Exit code 1."""


class MissingPackage(ImportError):
    """A package that is not installed, or does not load; the message names its extra.  Exit code 2."""


class StageFailed(RuntimeError):
    """Some shards of a stage failed; `failures` maps each shard's name to its reason.  Exit code 1.

    broken: names of those whose file is damaged, or cannot be read and never could (BadShard, not Unreadable).
    """

    def __init__(self, stage: str, failures: dict[str, str], remedy: str, broken: frozenset[str] = frozenset()) -> None:
        self.stage = stage
        self.remedy = remedy
        self.broken = broken
        self.failures = {redact(shard): redact(reason) for shard, reason in failures.items()}
        shards_of: dict[str, list[str]] = {}
        for shard, reason in sorted(self.failures.items()):
            shards_of.setdefault(reason, []).append(shard)
        lines = [f"{stage}: {len(failures)} shard(s) failed"]
        for reason, shards in shards_of.items():
            if len(shards) > NUM_NAMED:
                lines.append(f"  {', '.join(shards[:NUM_NAMED])} and {len(shards) - NUM_NAMED:,} more: {reason}")
            else:
                lines += [f"  {shard}: {reason}" for shard in shards]
        super().__init__("\n".join([*lines, remedy]))


def disk_error(error: BaseException, path: Path) -> OSError | None:
    """Return an error of a full or read-only disk as an OSError that names a file: its own, else `path`; else None.

    Libraries raise it as an error of their own, whose text ends like "No space left on device (os error 28)".
    """
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno not in DISK_ERRORS:
            return None
        return OSError(error.errno, os.strerror(error.errno), os.fspath(error.filename2 or error.filename or path))
    if isinstance(error, UserError | BadShard):
        return None
    for number in DISK_ERRORS:
        if os.strerror(number) in str(error):
            return OSError(number, os.strerror(number), str(path))
    return None


def describe_disk(path: Path) -> str:
    """Return the mount point of the disk that a path is on, or would be, and its free space."""
    place = path.absolute()
    while not (os.path.ismount(place) or place == place.parent):
        place = place.parent
    usage = os.statvfs(place)
    if usage.f_files and not usage.f_favail:
        return f"the disk at {place} has no room for more files"
    free = usage.f_bavail * usage.f_frsize / 2**30
    total = usage.f_blocks * usage.f_frsize / 2**30
    return f"the disk at {place} has {free:,.1f} of {total:,.1f} GiB free"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise errors of a full or read-only disk, from whatever library, as an OSError that names a file."""
    try:
        yield
    except Exception as error:
        full = disk_error(error, path)
        if full is None:
            raise
        raise full from error


def is_no_memory(error: BaseException) -> bool:
    """Return whether memory ran out, which says nothing about the data that were read; asked before they are blamed.

    Python, numpy, numba and Arrow raise MemoryError; other libraries raise errors of their own, whose text says it.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    if isinstance(error, UserError | BadShard):
        return False
    return isinstance(error, MemoryError) or NO_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def checkout() -> Path | None:
    """Return the folder of the checkout that this package lies in; None for a package that pip copied."""
    folder = Path(__file__).resolve().parents[3]
    project = folder / "pyproject.toml"
    if project.is_file() and 'name = "worldclip"' in project.read_text(encoding="utf-8").splitlines():
        return folder
    return None


def install_hint(extra: str) -> str:
    """Return the command that installs an extra: from this checkout, or else from the repository."""
    folder = checkout()
    if folder is None:
        return f"pip install 'worldclip[{extra}] @ git+{CLONE_URL}'"
    place = "." if folder.samefile(".") else folder
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


def require(module: str, *, extra: str) -> ModuleType:
    """Import and return `module`.  Raises MissingPackage that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_absent = (error.name or "").partition(".")[0] == module.partition(".")[0]
        state = "" if is_absent else f" and does not load ({first_line(error)})"
        raise MissingPackage(f"{module} is needed here{state}: {install_hint(extra)}") from error
