"""The simulation of a start at scale runs at small sizes, and what it counts follows its law."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale_training

from on_ranks import run_on_ranks


def test_ranks_together_open_each_shard_once_and_a_restart_one_file(tmp_path):
    text = scale_training.measure(tmp_path, [(12, 2), (24, 4)], num_pairs=50, rounds=1)
    before, after = next(line for line in text.splitlines() if line.startswith("| 24 | 4 |")).split("|")[4:6]
    assert (int(before), float(after)) == (48, 48 / 4 + 2)
    assert "| opens to count an epoch, per rank | 800,000 | 2,084 |" in text
    assert "| opens of a restart to know its epoch, per rank | 800,000 | 1 |" in text
    assert "| shards read for one bad image | 64 | 0 |" in text


def test_four_processes_open_what_four_threads_do(tmp_path):
    """Each its share of the shards and the epoch's numbers, the first also each share of the numbers."""
    scale_training.make_run(tmp_path, 24, num_pairs=20)
    run_on_ranks("count_epoch", tmp_path, 4)
    (first, first_restart), *others = json.loads((tmp_path / "opens.json").read_text())
    assert (first, first_restart) == (2 * 24 // 4 + 4 + 1, 1)
    assert others == [[2 * 24 // 4 + 1, 1]] * 3
