"""Go on without damaged shards: pool.broken_shards = "skip".  Later stages ask contracts/records.skipped_shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worldclip.contracts.records import Skipped
from worldclip.core.errors import NUM_NAMED, StageFailed
from worldclip.core.execute import Executor, Report, Shard
from worldclip.pool.config import PoolConfig


def map_pool(
    executor: Executor,
    config: PoolConfig,
    fn: Callable[[Shard], Report],
    shards: Sequence[Shard],
    *,
    is_slice: bool,
    **options: Any,
) -> tuple[Sequence[Report], Skipped]:
    """Do as Executor.map over the files of a pool; return the reports of all shards but the skipped ones, and these.

    is_slice: these are not all shards of the pool.  Raises StageFailed as Executor.map, under "skip" only if shards
    failed for another reason than damage, or all shards of the pool did.
    """
    try:
        return executor.map(fn, shards, **options), {}
    except StageFailed as error:
        if config.broken_shards == "stop" and error.broken:
            remedy = f'{error.remedy}; pool.broken_shards = "skip" goes on without them'
            raise StageFailed(error.stage, error.failures, remedy, error.broken) from error
        leaves_nothing = len(error.failures) == len(shards) and not is_slice
        if len(error.broken) < len(error.failures) or leaves_nothing:
            raise
        whole = [shard for shard in shards if shard.name not in error.broken]
        return executor.map(fn, whole, **options), dict(sorted(error.failures.items()))


def skipped_lines(skipped: Mapping[str, str]) -> list[str]:
    """Return a line that says which shards were left out, and why; none if none was."""
    named = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:NUM_NAMED])
    more = f"; and {len(skipped) - NUM_NAMED:,} more" if len(skipped) > NUM_NAMED else ""
    return [f"skipped broken shards, {len(skipped):,} in all: {named}{more}"] if skipped else []
