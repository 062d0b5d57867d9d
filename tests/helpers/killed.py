"""Code in a process of its own that dies by SIGKILL as it finishes its n-th file: tests of what is left and redone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_DIE = """
import os, signal, sys
_replace, _left = os.replace, int(sys.argv[1])

def _replace_or_die(source, target):
    global _left
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    _replace(source, target)

os.replace = _replace_or_die
"""


def run(code: str, kill_at: int, *arguments: object) -> subprocess.CompletedProcess:
    """`code` with `arguments` as sys.argv[2:]; kill_at: the number of the file, 0 for none.

    Standard output is the number of files that were finished.
    """
    whole = f"{_DIE}{code}\nprint(-_left + int(sys.argv[1]))"
    command = [sys.executable, "-c", whole, str(kill_at), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its name."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check(code: str, folder: Path, *arguments: object) -> None:
    """Killed early, midway and at its last file, the same call goes on to the same bytes and does not begin anew.

    code takes the folder that it writes as sys.argv[2].
    """
    whole = run(code, 0, folder / "whole", *arguments)
    assert whole.returncode == 0, whole.stderr
    num_files = int(whole.stdout)
    for kill_at in (num_files // 3, 2 * num_files // 3, num_files):
        out = folder / f"killed{kill_at}"
        assert run(code, kill_at, out, *arguments).returncode == -9
        again = run(code, 0, out, *arguments)
        assert again.returncode == 0, again.stderr
        assert int(again.stdout) < num_files, "what was done is not done again"
        assert contents(out) == contents(folder / "whole")
