"""Run other software on what worldclip writes, each client in its own environment.

`make clients` makes the environments in .clients (WORLDCLIP_CLIENTS names another folder).  A test of a client that is
not installed is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "tests" / "clients" / "scripts"


def clients_folder() -> Path:
    return Path(os.environ.get("WORLDCLIP_CLIENTS", REPOSITORY / ".clients"))


def installed(package: str) -> None:
    """Print the version of a package of this environment, or skip the test."""
    try:
        print(package, version(package))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed; run: make clients")


def run_python(environment: str | None, script: str, *arguments: str | Path) -> Any:
    """Run a script of tests/clients/scripts in an environment, None for this one; return the JSON of its last line."""
    python = sys.executable
    if environment is not None:
        python = str(clients_folder() / environment / "bin" / "python")
        if not Path(python).exists():
            pytest.skip(f"{python} does not exist; run: make clients")
    return _run([python, SCRIPTS / script, *arguments])


def run_node(script: str, *arguments: str | Path, environment: str = "node") -> Any:
    """Run a script of tests/clients/scripts in Node.js with transformers.js; return the JSON of its last line."""
    modules = clients_folder() / environment / "node_modules"
    node = shutil.which("node")
    if node is None or not modules.exists():
        pytest.skip(f"Node.js or {modules} does not exist; run: make clients")
    return _run([node, SCRIPTS / script, modules, *arguments])


def _run(command: Sequence[str | Path]) -> Any:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "PYTEST"))}
    environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, f"{Path(command[1]).name}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    print(done.stdout)
    return json.loads(done.stdout.strip().splitlines()[-1])
