"""Every stage and tool is killed before and after its renames and removals; the next call leaves the same files."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent / "helpers"
# One thread each: a child that is forked from a process with running threads may wait for them for ever.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def kill_points(*options: object) -> dict:
    command = [sys.executable, str(HELPERS / "kill_points.py"), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    assert done.stdout, done.stderr[-5000:]
    record = json.loads(done.stdout.splitlines()[-1])
    print({name: value for name, value in record.items() if name != "differences"})
    return record


def test_kills_at_random_points_leave_what_an_unbroken_call_leaves() -> None:
    """Up to 200 points, as many as 10 s allow; the seed is printed."""
    record = kill_points("--light", "--points", 200, "--seconds", 10, "--seed", secrets.randbelow(2**32))
    assert record["differences"] == []
    assert record["kills"] > 0


@pytest.mark.slow
def test_kills_at_all_points_leave_what_an_unbroken_call_leaves() -> None:
    record = kill_points()
    assert record["differences"] == []
    assert all(record["points"].values())
