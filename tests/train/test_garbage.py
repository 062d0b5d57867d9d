"""Garbage is collected at the same steps on every rank, and no step leaves tensors to be collected."""

from __future__ import annotations

import gc

import torch

from trainings import train
from worldclip.train import garbage, loop


def test_garbage_is_collected_by_step_and_after_checkpoints_and_at_will_again_afterwards(tmp_path, monkeypatch):
    launch_step, collect = loop.launch_step, gc.collect
    collected: list[tuple[int, int]] = []
    is_enabled: list[bool] = []

    def launch(*args, **keys):
        is_enabled.append(gc.isenabled())
        return launch_step(*args, **keys)

    def collect_and_note(generation: int = 2) -> int:
        collected.append((len(is_enabled), generation))
        return collect(generation)

    monkeypatch.setattr(garbage, "EVERY_STEPS", 4)
    monkeypatch.setattr(loop, "launch_step", launch)
    monkeypatch.setattr(gc, "collect", collect_and_note)
    train(tmp_path / "run", samples_seen=12 * 16, checkpoint_every_samples=5 * 16)
    assert is_enabled == [False] * 12
    assert [call for call in collected if call[0]] == [(4, 1), (5, 2), (8, 1), (10, 2), (12, 2)]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_no_step_leaves_tensors_to_be_collected(tmp_path, monkeypatch):
    """Else memory would grow for garbage.EVERY_STEPS."""
    launch_step = loop.launch_step
    num_tensors: list[int] = []

    def launch(*args, **keys):
        num_tensors.append(sum(isinstance(item, torch.Tensor) for item in gc.get_objects()))
        return launch_step(*args, **keys)

    monkeypatch.setattr(loop, "launch_step", launch)
    train(tmp_path / "run", samples_seen=8 * 16, checkpoint_every_samples=10**9)
    assert max(num_tensors[2:]) <= num_tensors[1] + 8, num_tensors
