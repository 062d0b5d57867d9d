"""Count the keys that each list of keys names: a list whose keys are written in another way would change nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from worldclip import pool
from worldclip.core import keys
from worldclip.core.console import say
from worldclip.core.errors import UserError
from worldclip.core.execute import Report, Shard, reads_input
from worldclip.core.job import Run
from worldclip.core.keys import KeyList
from worldclip.pool.config import PoolConfig


def say_listed(run: Run, shards: Sequence[Shard], reports: Iterable[Report], done_dir: Path) -> None:
    """Say how many keys with a match each list names.  Raises UserError for lists that name no key of the pool.

    reports: of stage.count_shard.  done_dir: of the markers of shards whose keys are read for that.
    """
    key_lists, config = pool.key_lists(run), run.section(PoolConfig)
    totals = _sum(reports, key_lists)
    for key_list, total in zip(key_lists, totals, strict=True):
        say("match", f"{_name(key_list)} ({key_list.num_keys:,} keys) names {total:,} keys with a match")
    unused = [key_list for key_list, total in zip(key_lists, totals, strict=True) if not total and key_list.num_keys]
    if not unused:
        return
    count = functools.partial(count_in_pool, config=config, key_lists=unused)
    key = {"pool": config.identity, "key_lists": keys.digests(unused)}
    reports = run.executor.map(count, shards, label="keys", done_dir=done_dir, key=key)
    absent = [key_list for key_list, total in zip(unused, _sum(reports, unused), strict=True) if not total]
    if absent:
        example = "".join(map(repr, pool.read_keys(shards[0], config)[0][:1].to_pylist()))
        raise UserError(
            [
                f"{_name(key_list)}: none of its {key_list.num_keys:,} keys is in the pool, whose keys look like "
                f"{example} (pool.key = {config.key!r}); write them so, or leave out the list"
                for key_list in absent
            ]
        )


def _name(key_list: KeyList) -> str:
    return f"{key_list.setting} {key_list.path!r}"


def _sum(reports: Iterable[Report], key_lists: Sequence[KeyList]) -> np.ndarray:
    return sum((np.array(report["listed"]) for report in reports), np.zeros(len(key_lists), np.int64))


@reads_input
def count_in_pool(shard: Shard, *, config: PoolConfig, key_lists: Sequence[KeyList]) -> Report:
    """Count the keys of a shard, with and without a match, that each list names."""
    pool_keys, _, _ = pool.read_keys(shard, config)
    listed = [int(keys.is_listed(pool_keys, key_list, shard.name).sum()) for key_list in key_lists]
    return {"pairs": len(pool_keys), "listed": listed}
