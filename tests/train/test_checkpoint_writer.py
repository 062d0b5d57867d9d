"""Checkpoints that fail, that are kept for good, and that are read again, without a model."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from threading import Event
from unittest.mock import Mock

import pytest
import safetensors
import torch

from calls import before, calls_of
from trainings import steps_of, write_shards
from worldclip.contracts import layout
from worldclip.core.artifacts import read_json, write_json
from worldclip.core.errors import UserError
from worldclip.train import checkpoint, checkpoint_writer
from worldclip.train.checkpoint import (
    CheckpointReader,
    Digests,
    consolidate,
    find_corruption,
    remove_old,
    remove_old_of_run,
    write_digests,
)
from worldclip.train.checkpoint_writer import (
    MAX_FAILED_SAVES,
    CheckpointWriter,
    LocalTensor,
    _write_index,
    _write_shard,
    cut_share,
)
from worldclip.train.distributed import ALONE, World

WEIGHTS = {"weights.a": LocalTensor(torch.arange(6.0), (6,), 0)}


def save(writer: CheckpointWriter, step: int, fails: bool = False) -> None:
    def write_model(folder: Path) -> None:
        if fails:
            raise OSError(28, "No space left on device", str(folder))

    writer.start(step, WEIGHTS, {"samples_seen": 10 * step, "updates": step}, write_model)


@pytest.fixture
def writer(tmp_path) -> CheckpointWriter:
    return CheckpointWriter(tmp_path, ALONE, keep_last=9)


def test_a_failed_checkpoint_is_warned_about_and_the_next_one_is_written(writer, tmp_path, capfd):
    for step, fails in ((1, False), (2, True), (3, True), (4, False), (5, True), (6, False)):
        save(writer, step, fails)
    writer.wait()
    assert steps_of(tmp_path) == [1, 4, 6]
    assert capfd.readouterr().err.count("WARNING: a checkpoint was not written") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step:09}" for step in (1, 4, 6)]


def test_a_checkpoint_gets_its_name_when_its_files_and_their_digests_are_on_disk(writer, tmp_path, monkeypatch):
    """A kill after the rename would leave a checkpoint that nobody can check."""
    flushed = calls_of(monkeypatch.setattr, checkpoint, "flush_to_disk")
    unsafe: list[list[str]] = []

    def check(source: Path, target: Path) -> None:
        if Path(target) == layout.step_folder(tmp_path, 1):
            files = {path for path in Path(source).rglob("*") if path.is_file()}
            digests = Path(source) / checkpoint.FILES
            recorded = {Path(source) / name for name in read_json(digests)} if digests.exists() else set()
            on_disk = {path for (path,) in flushed}
            unsafe.append(sorted(path.name for path in files - {digests} if path not in recorded & on_disk))

    before(monkeypatch.setattr, os, "replace", check)
    save(writer, 1)
    writer.wait()
    assert unsafe == [[]]
    assert find_corruption(layout.step_folder(tmp_path, 1)) is None


EIO = safetensors.SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")
FULL = OSError(28, "No space left on device", "folder")


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [("safetensors.torch.save_file", EIO, "os error 5"), ("pathlib.Path.mkdir", FULL, "No space left")],
    ids=["EIO in safetensors", "no folder"],
)
def test_an_error_of_the_disk_costs_one_checkpoint(writer, tmp_path, monkeypatch, capfd, place, error, said):
    with monkeypatch.context() as patch:
        patch.setattr(place, Mock(side_effect=error))
        save(writer, 1)
        with pytest.raises(type(error), match=said):
            writer._running.result()
    save(writer, 2)
    writer.wait()
    assert steps_of(tmp_path) == [2]
    assert said in capfd.readouterr().err


def test_training_does_not_go_on_for_ever_without_a_checkpoint(writer):
    for step in range(MAX_FAILED_SAVES):
        save(writer, step, fails=True)
    with pytest.raises(OSError, match="No space left"):
        save(writer, MAX_FAILED_SAVES)


def test_the_first_checkpoint_of_each_interval_is_kept_for_good(tmp_path):
    writer = CheckpointWriter(tmp_path, ALONE, keep_last=2, keep_every_samples=100)
    for step in range(3, 60, 3):  # 30, 60, ... samples
        save(writer, step)
    writer.wait()
    assert steps_of(tmp_path) == [12, 21, 30, 42, 51, 54, 57]
    remove_old(tmp_path, keep_last=1)
    assert steps_of(tmp_path) == [57]


def test_students_keep_the_steps_that_the_run_has(tmp_path):
    for folder, kept in ((tmp_path, (2, 4, 6)), (tmp_path / "students/small", (2, 4, 6, 8))):
        for step in kept:
            layout.step_folder(folder, step).mkdir(parents=True)
    write_json(tmp_path / "best.json", {"step": 2})
    remove_old_of_run(tmp_path, keep_last=1)
    assert steps_of(tmp_path) == [2, 6]
    assert steps_of(tmp_path / "students/small") == [2, 6, 8], "the run's step 8 is being written"


def rows_of(rank: int) -> dict[str, LocalTensor]:
    return {f"weights.{name}": LocalTensor(torch.full((2, 3), float(rank)), (4, 3), 2 * rank) for name in "abcdefgh"}


def write_sharded(folder: Path, tensors_of_rank: list[dict[str, LocalTensor]]) -> Digests:
    """Write a checkpoint of several ranks, without a model's configuration.  Return the digests of the ranks' files."""
    write_json(folder / "trainer" / "state.json", {"updates": 1})
    return write_shards(folder, tensors_of_rank)


@pytest.mark.parametrize("error", [FULL, EIO], ids=["full disk", "EIO"])
def test_a_rank_that_cannot_write_fails_the_checkpoint_of_all(tmp_path, monkeypatch, error):
    monkeypatch.setattr("safetensors.torch.save_file", Mock(side_effect=error))
    with pytest.raises(type(error)):
        _write_shard(tmp_path, rows_of(1), World(1, 2))
    monkeypatch.undo()
    _write_shard(tmp_path, rows_of(0), World(0, 2))
    with pytest.raises(OSError, match=r"rank 1: .*(No space left|os error 5)"):
        _write_index(tmp_path, World(0, 2), math.inf, Event())


def test_a_writer_that_closes_waits_shortly_for_a_dead_rank(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(checkpoint_writer, "barrier", lambda world: None)
    writer = CheckpointWriter(tmp_path, World(0, 2), keep_last=1)
    save(writer, 1)
    start = time.monotonic()
    writer.close()
    assert time.monotonic() - start < 5
    with pytest.raises(TimeoutError, match="rank 1 has not written"):
        writer.wait()


def test_each_file_of_a_sharded_checkpoint_is_opened_once(tmp_path, monkeypatch):
    write_sharded(tmp_path, [rows_of(0), rows_of(1)])
    opened = calls_of(monkeypatch.setattr, safetensors, "safe_open")
    reader = CheckpointReader(tmp_path)
    for name in rows_of(0):
        assert reader.read(name)[:, 0].tolist() == [0, 0, 1, 1]
        assert reader.read(name, slice(1, 3))[:, 0].tolist() == [0, 1]
    assert len(opened) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 8, 50])
def test_shares_cover_each_row_once_and_are_equal_up_to_a_row(count):
    tensors = {"table": torch.arange(70.0).reshape(14, 5), "gain": torch.arange(7.0), "scale": torch.tensor(3.0)}
    held = {name: LocalTensor(tensor, tuple(tensor.shape), 0) for name, tensor in tensors.items()}
    shares = [cut_share(held, index, count) for index in range(count)]
    for name, tensor in tensors.items():
        parts = [share[name] for share in shares if name in share]
        assert [part.first_row for part in parts] == [sum(p.num_rows for p in parts[:i]) for i in range(len(parts))]
        assert torch.equal(torch.cat([part.tensor.reshape(-1) for part in parts]), tensor.reshape(-1))
    sizes = [sum(local.tensor.nbytes for local in share.values()) for share in shares]
    assert max(sizes) - min(sizes) <= 2 * tensors["table"][0].nbytes
    assert sum(map(len, shares)) < len(tensors) + count  # most tensors are in one file


def test_consolidating_a_corrupt_checkpoint_does_not_make_it_valid(tmp_path):
    write_digests(tmp_path, write_sharded(tmp_path, [rows_of(0), rows_of(1)]))
    assert find_corruption(tmp_path) is None
    path = tmp_path / "trainer" / "shards" / "00001_of_00002.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    consolidate(tmp_path)
    assert find_corruption(tmp_path) == f"trainer/shards/{path.name} differs from its digest"


def test_missing_rows_are_named(tmp_path):
    write_sharded(tmp_path, [{"rows.a": LocalTensor(torch.zeros(4, 2), (10, 2), 3)}])
    with pytest.raises(UserError, match=r"4 of 10 rows of rows\.a; the checkpoint is incomplete"):
        CheckpointReader(tmp_path).read("rows.a")
