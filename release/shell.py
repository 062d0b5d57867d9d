"""Run the programs of a release."""

import subprocess
from pathlib import Path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return what a command prints; a failure ends the script with the end of both its streams."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        ends = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}".strip()
        raise SystemExit(f"error: exit code {done.returncode} of {' '.join(words)}\n{ends}")
    return done.stdout
