"""torchrun's part in a run: which processes only help to train.  Imports no torch."""

from __future__ import annotations

import os


def is_helper_rank() -> bool:
    """Return whether torchrun started this process to train only: true for every rank but the first."""
    return int(os.environ.get("RANK", "0")) > 0


def num_ranks() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))
