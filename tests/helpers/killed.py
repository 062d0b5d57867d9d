"""Run code in a subprocess that kills itself when it finishes its n-th file, and check what a second run does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

_DIE = """
import os, signal, sys
_replace, _left = os.replace, int(sys.argv[1])
os.fsync = lambda handle: None

def _replace_or_die(source, target):
    global _left
    _left -= PLACE in os.fspath(target)
    is_last = _left == 0 and PLACE in os.fspath(target)
    if is_last and WHEN == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target)
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = _replace_or_die
"""


def run(
    code: str, kill_at: int, *arguments: object, place: str = "", when: str = "before"
) -> subprocess.CompletedProcess:
    """Run `code` with `arguments` as sys.argv[2:], killed at file number kill_at; 0: not killed.

    place: counts only files whose path holds it.  when: before or after the file gets its name.  It prints the number
    of files that it has finished.
    """
    die = _DIE.replace("PLACE", repr(place)).replace("WHEN", repr(when))
    whole = f"{die}{code}\nprint(-_left + int(sys.argv[1]))"
    command = [sys.executable, "-c", whole, str(kill_at), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder: Path, without: Collection[str] = ()) -> dict[str, bytes]:
    """Return the content of every file below `folder` by its path; without: names of files and folders."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {name.as_posix(): path.read_bytes() for name, path in files.items() if not {*without} & {*name.parts}}


def modified(folder: Path, pattern: str = "*") -> dict[Path, int]:
    """Return when every file below `folder` was modified, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern) if path.is_file()}


def digests_of_curation(run_dir: Path) -> dict[str, str]:
    """Return the digest of each table, array, threshold, manifest, report and marker that curation leaves."""
    return {
        path.relative_to(run_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in ("pool", "metadata", "match", "balance", "curate")
        for path in sorted((run_dir / stage).rglob("*"))
        if path.suffix in (".parquet", ".npy", ".json") and path.name != "listed_at.json"
    }


def check(code: str, folder: Path, *arguments: object) -> None:
    """Check that code killed midway and at its last file resumes to the same bytes without starting over.

    `code` gets the folder to write as sys.argv[2].  Kills at all points: test_same_bytes.py.
    """
    # Only files below `folder` count: kernels that are compiled meanwhile write files, too.
    place = str(folder)
    uninterrupted = run(code, 0, folder / "whole", *arguments, place=place)
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    num_files = int(uninterrupted.stdout)
    for kill_at in (num_files // 2, num_files):
        out = folder / f"killed{kill_at}"
        assert run(code, kill_at, out, *arguments, place=place).returncode == -9
        resumed = run(code, 0, out, *arguments, place=place)
        assert resumed.returncode == 0, resumed.stderr
        assert int(resumed.stdout) < num_files, "the second run started over"
        assert contents(out) == contents(folder / "whole")
