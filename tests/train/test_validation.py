"""The loss on held-out pairs is measured without changing training; a loss that jumps is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from trainings import result_bytes, train, train_until
from worldclip.core.errors import UserError
from worldclip.core.execute import Shard
from worldclip.train.log import QUIET_STEPS, WINDOW_STEPS, SpikeWatch, read_log
from worldclip.train.start import split_shards

HELD_OUT = {"validation_shards": 1, "samples_seen": 10 * 16}


def test_shards_are_held_out_by_the_hash_and_never_all():
    shards = [Shard(name=f"{n:03}.tar", path="") for n in range(20)]
    training, held_out = split_shards(shards[::-1], 3)
    assert len(held_out) == 3
    assert sorted(shard.name for shard in [*training, *held_out]) == [shard.name for shard in shards]
    assert split_shards(shards, 4)[1] != held_out
    assert {shard.name for shard in held_out} < {shard.name for shard in split_shards(shards, 4)[1]}
    with pytest.raises(UserError, match=r"train\.validation_shards = 20: the pool has only 20 shards"):
        split_shards(shards, 20)


@pytest.mark.parametrize("changes", [{"token_table": "rows"}, {"accum_steps": 2, "patch_dropout": 0.5}])
def test_validation_changes_no_byte_of_the_weights_and_survives_a_kill(tmp_path, changes):
    run_dirs = [tmp_path / name / "run" for name in ("never", "often")]
    reports = [
        train(run_dir, **HELD_OUT, **changes, validate_every_samples=every)
        for run_dir, every in zip(run_dirs, (0, 2 * 16), strict=True)
    ]
    assert [report["pairs"] for report in reports] == [48, 48]  # of 72
    assert result_bytes(run_dirs[0]) == result_bytes(run_dirs[1])
    records = read_log(run_dirs[1] / "train" / "validation.jsonl")
    assert [record["step"] for record in records] == [2, 4, 6, 8, 10]
    assert records[-1]["loss"] < records[0]["loss"]
    cut = tmp_path / "cut" / "run"
    train_until(7, cut, **HELD_OUT, **changes, validate_every_samples=2 * 16)
    train(cut, **HELD_OUT, **changes, validate_every_samples=2 * 16)
    assert read_log(cut / "train" / "validation.jsonl") == records


def test_held_out_pairs_must_fill_a_batch(tmp_path):
    with pytest.raises(UserError, match="they hold 24 pairs, fewer than a batch of 32; hold out more"):
        train(tmp_path / "run", validation_shards=1, validate_every_samples=64, global_batch_size=32)


def test_a_spike_is_said_once_with_what_to_do():
    watch = SpikeWatch()
    losses = 2 + 0.1 * np.random.default_rng(0).standard_normal(3 * WINDOW_STEPS)
    assert not [step for step, loss in enumerate(losses) if watch.add(step, loss)]
    first = len(losses)
    messages = [watch.add(first + n, 3.5) for n in range(QUIET_STEPS // 2)]
    assert "WARNING: the loss of step 3000 is 3.5000" in messages[0]
    assert "--resume-from STEP" in messages[0]
    assert not any(messages[1:])


def test_the_first_steps_are_no_spikes():
    watch = SpikeWatch()
    assert not any(watch.add(step, loss) for step, loss in enumerate([1.0, 9.0, *[1.0] * 50, 9.0]))
