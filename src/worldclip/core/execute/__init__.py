"""Map one pure function over shards: finished shards are skipped, a failed shard is listed and the others finish.

One loop (loop.py) has processes of this machine (local.py) or a Ray cluster (ray.py) do the work, with the same result.
"""

# ruff: noqa: F401  the names that others import from here
from __future__ import annotations

from worldclip.core.errors import UserError
from worldclip.core.execute.local import LocalExecutor, usable_cores
from worldclip.core.execute.loop import Executor
from worldclip.core.execute.ray import RayExecutor
from worldclip.core.execute.shards import Report, Shard, add_counts, mark_done
from worldclip.core.preflight import require_packages


def create_executor(where: str, workers: int | None = None) -> Executor:
    """Return the executor for `local`, `ray` or `ray:ADDRESS` (--executor); workers: default one per core."""
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}; the number of shards in parallel must be at least 1")
    name, _, address = where.partition(":")
    if name == "ray":
        require_packages("--executor ray", extra="ray")
        if address.startswith("//"):  # ray://HOST:PORT
            address = where
        return RayExecutor(address=address or None, workers=workers)
    if where == "local":
        return LocalExecutor(workers=usable_cores() if workers is None else workers)
    raise UserError(
        f"--executor is {where!r}; use local (processes of this machine), ray (the cluster at RAY_ADDRESS, else one "
        "started on this machine) or ray:ADDRESS"
    )
