"""Every path of a RUN folder, once."""

from __future__ import annotations

import json
import re
from pathlib import Path

BEST = "best.json"
_STEP = re.compile(r"step_\d{9}")


def step_folder(train_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint of this step."""
    return train_dir / f"step_{step:09}"


def checkpoints(train_dir: Path) -> list[Path]:
    """Return the checkpoints of RUN/train, oldest first."""
    if not train_dir.is_dir():
        return []
    return sorted(path for path in train_dir.iterdir() if _STEP.fullmatch(path.name))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, None if it has none."""
    found = checkpoints(run_dir / "train")
    return found[-1] if found else None


def best_checkpoint(run_dir: Path) -> Path | None:
    """Return the checkpoint that evaluations during training found best; without any, the newest."""
    return best_of(run_dir / "train") or latest_checkpoint(run_dir)


def best_of(train_dir: Path) -> Path | None:
    """Return the checkpoint that RUN/train/best.json names, None if it names none that is there."""
    record = train_dir / BEST
    if not record.exists():
        return None
    folder = step_folder(train_dir, json.loads(record.read_text(encoding="utf-8"))["step"])
    return folder if folder.exists() else None
