"""The ranks count a share of the shards each, and find the numbers in the run's folder."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from worldclip.train.distributed import ALONE, World
from worldclip.train.epoch_counts import PAIRS, WITHOUT_IMAGE, EpochCounts

NUM_SHARDS = 11


def count(shard: int, epoch: int) -> tuple[int, int]:
    return 100 * epoch + shard, shard % 3


@pytest.mark.parametrize("num_ranks", [1, 2, 5, 16])
def test_each_shard_is_counted_once_by_all_ranks_together(tmp_path, num_ranks):
    calls: list[tuple[int, int]] = []

    def counted(shard: int, epoch: int) -> tuple[int, int]:
        calls.append((shard, epoch))
        return count(shard, epoch)

    ranks = [EpochCounts(tmp_path, counted, NUM_SHARDS, World(rank, num_ranks)) for rank in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as threads:
        found = list(threads.map(lambda counts: counts.of_epoch(3), ranks))
    for numbers in found:
        assert numbers[PAIRS].tolist() == [300 + shard for shard in range(NUM_SHARDS)]
        assert numbers[WITHOUT_IMAGE].tolist() == [shard % 3 for shard in range(NUM_SHARDS)]
    assert sorted(calls) == [(shard, 3) for shard in range(NUM_SHARDS)]
    assert [path.name for path in tmp_path.iterdir()] == ["000003.npy"]


def test_a_restart_reads_the_file_at_any_number_of_ranks(tmp_path):
    first = EpochCounts(tmp_path, count, NUM_SHARDS, ALONE).of_epoch(0)

    def fail(shard: int, epoch: int) -> tuple[int, int]:
        raise AssertionError("counted again")

    again = EpochCounts(tmp_path, fail, NUM_SHARDS, World(1, 4)).of_epoch(0)
    assert np.array_equal(first, again)


def test_a_share_from_before_a_kill_is_not_counted_again(tmp_path):
    killed = EpochCounts(tmp_path, count, NUM_SHARDS, World(1, 2))
    killed.count_ahead(0)
    killed._background.shutdown()  # waits for the share
    calls: list[int] = []

    def counted(shard: int, epoch: int) -> tuple[int, int]:
        calls.append(shard)
        return count(shard, epoch)

    EpochCounts(tmp_path, counted, NUM_SHARDS, World(0, 2)).of_epoch(0)
    assert sorted(calls) == list(range(0, NUM_SHARDS, 2))


def test_an_epoch_is_counted_ahead_in_the_background(tmp_path):
    caller, threads_used = threading.get_ident(), set()

    def counted(shard: int, epoch: int) -> tuple[int, int]:
        threads_used.add(threading.get_ident())
        return count(shard, epoch)

    counts = EpochCounts(tmp_path, counted, NUM_SHARDS, ALONE)
    counts.count_ahead(1)
    counts.count_ahead(1)
    assert counts.of_epoch(1)[PAIRS, 4] == 104
    assert threads_used
    assert caller not in threads_used


def test_a_failed_count_is_raised_where_the_numbers_are_needed(tmp_path):
    def fail(shard: int, epoch: int) -> tuple[int, int]:
        raise OSError("shard 0 is gone")

    counts = EpochCounts(tmp_path, fail, NUM_SHARDS, ALONE)
    counts.count_ahead(1)
    with pytest.raises(OSError, match="shard 0 is gone"):
        counts.of_epoch(1)
