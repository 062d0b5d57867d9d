"""The ranks count a share of the shards each, and find the numbers in the run's folder."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from worldclip.train.distributed import ALONE, World
from worldclip.train.epoch_counts import PAIRS, WITHOUT_IMAGE, EpochCounts

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale_training

NUM_SHARDS = 11


class Count:
    """Counts a shard, and notes (shard, epoch) and the thread of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def __call__(self, shard: int, epoch: int) -> tuple[int, int]:
        self.calls.append((shard, epoch))
        self.threads.add(threading.get_ident())
        return 100 * epoch + shard, shard % 3


@pytest.mark.parametrize("num_ranks", [1, 2, 5, 16])
def test_each_shard_is_counted_once_by_all_ranks_together(tmp_path, num_ranks):
    count = Count()
    ranks = [EpochCounts(tmp_path, count, NUM_SHARDS, World(rank, num_ranks)) for rank in range(num_ranks)]
    with ThreadPoolExecutor(num_ranks) as threads:
        found = list(threads.map(lambda counts: counts.of_epoch(3), ranks))
    for numbers in found:
        assert numbers[PAIRS].tolist() == [300 + shard for shard in range(NUM_SHARDS)]
        assert numbers[WITHOUT_IMAGE].tolist() == [shard % 3 for shard in range(NUM_SHARDS)]
    assert sorted(count.calls) == [(shard, 3) for shard in range(NUM_SHARDS)]
    assert [path.name for path in tmp_path.iterdir()] == ["000003.npy"]


def test_a_restart_reads_the_file_at_any_number_of_ranks(tmp_path):
    first = EpochCounts(tmp_path, Count(), NUM_SHARDS, ALONE).of_epoch(0)
    count = Count()
    assert np.array_equal(first, EpochCounts(tmp_path, count, NUM_SHARDS, World(1, 4)).of_epoch(0))
    assert not count.calls


def test_a_share_from_before_a_kill_is_not_counted_again(tmp_path):
    killed = EpochCounts(tmp_path, Count(), NUM_SHARDS, World(1, 2))
    killed.count_ahead(0)
    killed._background.shutdown()  # waits for the share
    count = Count()
    EpochCounts(tmp_path, count, NUM_SHARDS, World(0, 2)).of_epoch(0)
    assert sorted(count.calls) == [(shard, 0) for shard in range(0, NUM_SHARDS, 2)]


def test_an_epoch_is_counted_ahead_in_the_background(tmp_path):
    count = Count()
    counts = EpochCounts(tmp_path, count, NUM_SHARDS, ALONE)
    counts.count_ahead(1)
    counts.count_ahead(1)
    assert counts.of_epoch(1)[PAIRS, 4] == 104
    assert len(count.calls) == NUM_SHARDS
    assert threading.get_ident() not in count.threads


def test_a_failed_count_is_raised_where_the_numbers_are_needed(tmp_path):
    def fail(shard: int, epoch: int) -> tuple[int, int]:
        raise OSError("shard 0 is gone")

    counts = EpochCounts(tmp_path, fail, NUM_SHARDS, ALONE)
    counts.count_ahead(1)
    with pytest.raises(OSError, match="shard 0 is gone"):
        counts.of_epoch(1)


# benchmarks/scale_training.py at small sizes


def test_ranks_together_open_each_shard_once_and_a_restart_one_file(tmp_path):
    text = scale_training.measure(tmp_path, [(12, 2), (24, 4)], num_pairs=50, rounds=1)
    before, after = next(line for line in text.splitlines() if line.startswith("| 24 | 4 |")).split("|")[4:6]
    assert (int(before), float(after)) == (48, 48 / 4 + 2)
    assert "| opens to count an epoch, per rank | 800,000 | 2,084 |" in text
    assert "| opens of a restart to know its epoch, per rank | 800,000 | 1 |" in text
    assert "| shards read for one bad image | 64 | 0 |" in text
