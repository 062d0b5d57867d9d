"""Call functions of the explorer's page under Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("explorer_in_node.js")


def call_page(folder: Path, calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Return the result of each (function, arguments ...) of the explorer in `folder`; skip the test without Node."""
    node = shutil.which("node") or pytest.skip("no node on this machine")
    done = subprocess.run(
        [node, str(SCRIPT), str(folder)], input=json.dumps(calls), capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results
