"""A file system that fails for a moment ends no training: tables, indices and arrays are read again, logs kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import trainings
from calls import before, fail_at
from small_world import write_world
from worldclip.core.errors import BadShard, UserError
from worldclip.train import loader, retries
from worldclip.train.epoch_counts import EpochCounts
from worldclip.train.image_files import ImageFiles
from worldclip.train.log import Lines, read_log

EIO = OSError(5, "Input/output error")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "RETRY_S", 0.05)


@pytest.fixture
def fail_once(monkeypatch):
    """A function that lets a call of `owner.name` fail at its first use for each file of a name."""

    def patch(owner: Any, name: str, file_name: str) -> list[Path]:
        failed: list[Path] = []

        def fail(path: Any, *_: Any, **__: Any) -> None:
            if Path(path).match(file_name) and Path(path) not in failed:
                failed.append(Path(path))
                raise EIO

        before(monkeypatch.setattr, owner, name, fail)
        return failed

    return patch


@pytest.mark.parametrize("file_name", ["curate/*.parquet", "pool/index/*.parquet"])
def test_a_table_that_fails_once_is_read_again(tmp_path, fail_once, capfd, file_name):
    write_world(tmp_path / "run")
    failed = fail_once(pq, "ParquetFile", file_name)
    loader = trainings.make_loader(tmp_path / "run")
    assert len(loader.batch(0).keys)
    assert len(failed) == 3
    assert capfd.readouterr().err.count("reading it again for") == 3


def test_an_error_in_the_middle_of_a_table_is_no_end_either(tmp_path, monkeypatch):
    write_world(tmp_path / "run")
    fail_at(monkeypatch.setattr, pq.ParquetFile, "read", 1, EIO)
    assert len(trainings.make_loader(tmp_path / "run").batch(0).keys)


def test_the_counts_of_an_epoch_are_read_again(tmp_path, fail_once):
    EpochCounts(tmp_path, lambda shard, epoch: (1, 0), 2).of_epoch(0)
    failed = fail_once(np, "load", "*.npy")
    assert EpochCounts(tmp_path, lambda shard, epoch: (1, 0), 2).of_epoch(0).tolist() == [[1, 1], [0, 0]]
    assert len(failed) == 1


def test_a_disk_that_stays_broken_is_given_up(monkeypatch):
    tries = []

    @retries.patient
    def read() -> None:
        tries.append(1)
        raise EIO

    with pytest.raises(OSError, match="Input/output error"):
        read()
    assert len(tries) > 2


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), BadShard("a.parquet: holds 'x'")])
def test_a_file_that_is_missing_or_another_is_not_read_again(error):
    @retries.patient
    def read() -> None:
        raise error

    start = time.monotonic()
    with pytest.raises(type(error)):
        read()
    assert time.monotonic() - start < 0.04


def test_storage_that_loses_more_than_a_hundredth_of_the_images_ends_training(tmp_path, monkeypatch):
    def lose_first(files: ImageFiles, i: int, *_: int) -> None:
        if i == 0:
            raise BadShard("000.tar: cannot be read")

    before(monkeypatch.setattr, ImageFiles, "read", lose_first)
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    with pytest.raises(UserError, match=r"images could not be read for 160 samples, more than 1%, for example 000"):
        trainings.train(tmp_path / "run", checkpoint_every_samples=160)
    train_dir = tmp_path / "run" / "train"
    (record,) = read_log(train_dir / "log.jsonl")
    (seen,) = read_log(train_dir / "seen.jsonl")
    assert record["unreadable_fraction"] == pytest.approx(seen["bad"]["unreadable"] / 160)
    assert record["unreadable_fraction"] > 0.2
    assert trainings.steps_of(train_dir) == [10]


def test_a_log_on_a_full_disk_is_completed_when_there_is_room_again(tmp_path, capfd):
    log = Lines(tmp_path / "log.jsonl", 0)
    plain = log._file
    room = [5]

    class Full:
        def write(self, text: bytes) -> int:
            num_written = plain.write(text[: room[0]])
            room[0] -= num_written
            if not num_written:
                raise OSError(28, "No space left on device")
            return num_written

    log.append({"step": 1})
    log._file = Full()
    for step in (2, 3):
        log.append({"step": step})
    log._file = plain
    log.append({"step": 4})
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert capfd.readouterr().err.count("WARNING") == 1
