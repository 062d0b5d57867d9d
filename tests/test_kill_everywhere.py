"""Every stage and tool is killed at its renames and removals, or the disk is full there; the next call goes on."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from kill_scenarios import MAKERS
from worldclip.cli.overview import COMMANDS

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


def test_kills_at_random_points_leave_what_an_unbroken_call_leaves():
    """Up to 200 points, as many as 10 s allow; the seed is printed."""
    record = kill_points("--light", "--points", 200, "--seconds", 10, "--seed", secrets.randbelow(2**32))
    assert record["differences"] == []
    assert record["kills"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("group", MAKERS)
def test_kills_of_every_command_leave_what_an_unbroken_call_leaves(group):
    """As many points at random as five minutes allow, of each scenario at least one."""
    record = kill_points("--group", group, "--seconds", 300, "--seed", secrets.randbelow(2**32))
    assert record["differences"] == []
    assert all(record["points"].values())


# A command is killed by the scenario of its name (kill_scenarios.py), or in a test file.  These kill in other states:
FURTHER_SCENARIOS = {"--from match", "--from-run", "pool world with other parts"}
KILLED_ELSEWHERE = {
    "fetch metadata": "tools/test_fetch.py",
    "fetch dataset": "tools/test_fetch.py",
}
# They write one file aside and rename it (artifacts.write_artifact), or nothing.
ONE_FILE_OR_NONE = {
    *("init", "status", "classify", "languages", "doctor", "estimate", "inspect", "compare", "search", "serve"),
    "consolidate",
}


def test_every_command_is_killed_or_says_why_not():
    source = (HELPERS / "kill_scenarios.py").read_text(encoding="utf-8")
    scenarios = set(re.findall(r'name="([^"]+)"', source))
    assert scenarios >= FURTHER_SCENARIOS
    not_killed = {name for name in COMMANDS.names() if name.removesuffix(" MODEL") not in scenarios}
    assert not_killed == {*KILLED_ELSEWHERE, *ONE_FILE_OR_NONE}
    assert [file for file in KILLED_ELSEWHERE.values() if not (HELPERS.parent / file).exists()] == []
