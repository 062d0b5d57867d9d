"""Run stages, and one pure function over shards: what is done is skipped, what fails fails alone and is listed.

Where the work runs is chosen by `create_executor`: processes of this machine (local.py) or a Ray cluster (ray.py);
same functions, same shards, same bytes.
"""

from __future__ import annotations

from worldclip.execute.local import LocalExecutor, usable_cores
from worldclip.execute.ray import RayExecutor
from worldclip.execute.shards import Executor, Report, Shard, add_counts, are_done, repeatable
from worldclip.execute.stages import (
    ALL_SHARDS,
    RunLock,
    Stage,
    changed_keys,
    create_executor,
    remove_stale,
    run_slice,
    run_stage,
    say,
    why_run,
)

__all__ = [
    "ALL_SHARDS",
    "Executor",
    "LocalExecutor",
    "RayExecutor",
    "Report",
    "RunLock",
    "Shard",
    "Stage",
    "add_counts",
    "are_done",
    "changed_keys",
    "create_executor",
    "remove_stale",
    "repeatable",
    "run_slice",
    "run_stage",
    "say",
    "usable_cores",
    "why_run",
]
