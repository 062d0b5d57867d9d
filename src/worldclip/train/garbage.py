"""Python's garbage collection, at the same steps on all ranks.

A full collection goes through all objects of the process: 0.4 s with torch and transformers loaded.  Left to itself,
each rank would collect at a step of its own, and all others would wait for it in the next exchange.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_STEPS = 50
YOUNG = 1  # generations 0 and 1, in which nearly all garbage is


@contextmanager
def collected_by_step() -> Iterator[None]:
    """Inside, collect only where `collect_at` says.  Objects from before, which stay, are never gone through again."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def collect_at(step: int, *, is_saved: bool) -> None:
    """Collect young objects after each EVERY_STEPS, all after a checkpoint."""
    if is_saved:
        gc.collect()
    elif step % EVERY_STEPS == 0:
        gc.collect(YOUNG)
