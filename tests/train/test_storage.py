"""Files that change, go or fail for a moment in the middle of training: pairs are replaced, and never read wrong."""

import gc
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trainings
from calls import before, calls_of, fail_at
from miniature import write_files
from small_world import COLOURS, write_world
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.pool.files import FileBytes, unreadable
from worldclip.train import image_files, loader, loop, pairs
from worldclip.train.image_files import ImageFiles
from worldclip.train.log import Lines, read_log
from worldclip.train.pairs import EpochCounts

FIRST = {f"{n:05}" for n in range(8)}  # keys of 000.tar
ALL = {f"{n:05}" for n in range(24)}
EIO = OSError(5, "Input/output error")


def no_index(shard):
    raise AssertionError("a tar's images need no index")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(image_files, "RETRY_S", 0.05)
    monkeypatch.setattr(image_files, "WAIT_S", 0.001)
    monkeypatch.setattr(pairs, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(pairs, "RETRY_S", 0.05)


@pytest.fixture(params=[0, 3], ids=["windows", "streams"])
def make_loader(request, tmp_path, monkeypatch):
    """A function that opens the loader of a small world; decoded images are not kept."""
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    write_world(tmp_path / "run")
    options = {"num_streams": request.param, "crop_scale_min": 1.0, "shuffle_shards": 64}
    return lambda: trainings.make_loader(tmp_path / "run", **options)


def read_epoch(of):
    """Return the keys and the bad images of an epoch; each image shows what its text says."""
    keys, bad = set(), Counter()
    for step in range(6):
        batch = of.batch(step)
        keys |= set(batch.keys)
        bad += batch.bad.counts
        for key, image in zip(batch.keys, batch.images, strict=True):
            centre = image[:, 7:9, 7:9].float().mean((1, 2)).numpy()
            distances = [np.abs(centre - rgb).sum() for rgb in COLOURS.values()]
            assert int(np.argmin(distances)) == int(key) % len(COLOURS), key
    return keys, bad


def replace_tar(tar):
    """Give another tar the name."""
    os.replace(shutil.copy(tar.with_name("001.tar"), tar.with_name("copy")), tar)


def cut_tar(tar):
    os.truncate(tar, 600)


@pytest.mark.parametrize("change", [replace_tar, Path.unlink])
def test_an_open_tar_is_read_on_after_it_was_replaced_or_removed(make_loader, tmp_path, change):
    of = make_loader()
    assert read_epoch(of) == (ALL, Counter())
    change(tmp_path / "tars" / "000.tar")
    assert read_epoch(of) == (ALL, Counter())


def test_pairs_of_a_tar_that_is_cut_are_replaced_and_counted_until_it_is_back(make_loader, tmp_path, capfd):
    of, tar = make_loader(), tmp_path / "tars" / "000.tar"
    assert read_epoch(of) == (ALL, Counter())
    whole = shutil.copy2(tar, tmp_path / "whole")
    cut_tar(tar)
    keys, bad = read_epoch(of)
    assert keys.isdisjoint(FIRST)
    assert set(bad) == {"unreadable"}
    assert bad["unreadable"] >= 8
    assert capfd.readouterr().err.count("000.tar: ") == 1
    os.replace(whole, tar)
    assert read_epoch(of) == (ALL, Counter())


def test_a_tar_that_was_only_touched_is_read_on(make_loader, tmp_path):
    of = make_loader()
    os.utime(tmp_path / "tars" / "000.tar", (1, 1))
    copy = shutil.copy(tmp_path / "tars" / "001.tar", tmp_path / "copy")
    os.replace(copy, tmp_path / "tars" / "001.tar")
    assert read_epoch(of) == (ALL, Counter())


def test_a_pool_that_is_gone_ends_training_and_names_a_tar(make_loader, tmp_path):
    of = make_loader()
    shutil.rmtree(tmp_path / "tars")
    with pytest.raises(UserError, match=r"for example 000\d\d: unreadable: 00\d.tar: cannot be read"):
        of.batch(0)


def test_a_read_is_tried_again_then_given_up_and_tried_again_as_before_once_the_tar_could_be_read(
    tmp_path, monkeypatch
):
    (tmp_path / "0.tar").write_bytes(b"0123456789")
    files = ImageFiles([Shard.of_file("0.tar", str(tmp_path / "0.tar"))], no_index)
    for _ in range(2):
        fail_at(monkeypatch.setattr, FileBytes, "read", 1, BadShard("cannot be read (Stale file handle)"))
    reads = calls_of(monkeypatch.setattr, FileBytes, "read")
    assert files.read(0, 2, 3) == b"234"
    assert len({file for file, *_ in reads}) == 3, "a file that failed was not opened anew"
    with pytest.raises(BadShard, match=r"0\.tar: ends before byte 15"):
        files.read(0, 5, 10)
    assert files.read(0, 2, 3) == b"234"
    fail_at(monkeypatch.setattr, FileBytes, "read", 1, BadShard("cannot be read (Stale file handle)"))
    assert files.read(0, 2, 3) == b"234"


def test_files_stay_open_as_long_as_there_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "OPEN_FILES", 2)
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(b"0123456789")
    gc.collect()  # files that earlier tests left open in cycles are closed now, and not in between
    num_open = len(os.listdir("/proc/self/fd"))
    files = ImageFiles([Shard.of_file(f"{n}.tar", str(tmp_path / f"{n}.tar")) for n in range(3)], no_index)
    opened = calls_of(monkeypatch.setattr, os, "open")
    for i in (0, 1, 0, 1, 2, 1, 2, 0):  # 2 closes 0
        assert files.read(i, 2, 3) == b"234"
    assert [Path(path).name for path, *_ in opened] == ["0.tar", "1.tar", "2.tar", "0.tar"]
    del files
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_a_picture_of_a_table_is_read_while_it_is_the_one_that_was_indexed(tmp_path, monkeypatch):
    write_files(tmp_path, {"0.csv": "", "a.png": "0123456789"})
    index = pa.table({"member": ["gone.png", "a.png"]})
    files = ImageFiles([Shard.of_file("0.csv", str(tmp_path / "0.csv"))], lambda shard: index)
    refusal = unreadable(EIO)
    refusal.__cause__ = EIO
    fail_at(monkeypatch.setattr, FileBytes, "read", 1, refusal)
    assert files.read(0, -2, 10) == b"0123456789"
    (tmp_path / "a.png").write_text("0123456789 and more")
    for offset, reason in ((-2, "a.png: changed after it was indexed"), (-1, "gone.png: .*No such file")):
        with pytest.raises(BadShard, match=reason):
            files.read(0, offset, 10)


@pytest.mark.parametrize("name", ["0.tar", "0.parquet"])
def test_a_file_of_another_size_than_it_had_is_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"0123456789")
    files = ImageFiles([Shard.of_file(name, str(tmp_path / name))], no_index)
    (tmp_path / name).write_bytes(b"0123456789 and more")
    with pytest.raises(BadShard, match=rf"{name}: has 19 bytes, not 10; it changed after it was indexed"):
        files.read(0, 2, 3)


# tables, indices and arrays


@pytest.fixture
def fail_once(monkeypatch):
    """A function that lets a call of `owner.name` fail at its first use for each file of a name."""

    def patch(owner, name, file_name):
        failed = []

        def fail(path, *_, **__):
            if Path(path).match(file_name) and path not in failed:
                failed.append(path)
                raise EIO

        before(monkeypatch.setattr, owner, name, fail)
        return failed

    return patch


@pytest.mark.parametrize("file_name", ["curate/*.parquet", "pool/images/*.parquet"])
def test_a_table_that_fails_once_is_read_again(tmp_path, fail_once, capfd, file_name):
    write_world(tmp_path / "run")
    failed = fail_once(pq, "ParquetFile", file_name)
    assert len(trainings.make_loader(tmp_path / "run").batch(0).keys)
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


def test_a_disk_that_stays_broken_is_given_up_and_a_missing_file_at_once():
    tries = []

    @pairs.patient
    def read(error):
        tries.append(error)
        raise error

    with pytest.raises(OSError, match="Input/output error"):
        read(EIO)
    assert len(tries) > 1
    for error in (FileNotFoundError(2, "No such file"), BadShard("a.parquet: holds 'x'")):
        start = time.monotonic()
        with pytest.raises(type(error)):
            read(error)
        assert time.monotonic() - start < 0.04


def test_storage_that_loses_more_than_a_hundredth_of_the_images_ends_training(tmp_path, monkeypatch):
    """It fails after the first checkpoint; the share is of the samples since then, also once it is repaired."""
    launched = calls_of(monkeypatch.setattr, loop, "launch_step")
    is_repaired = []

    def lose_first(files, i, *_):
        if i == 0 and len(launched) >= 10 and not is_repaired:
            raise BadShard("000.tar: cannot be read")

    before(monkeypatch.setattr, ImageFiles, "read", lose_first)
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    monkeypatch.setattr(loader, "BATCHES_AHEAD", 0)
    with pytest.raises(UserError, match=r"images could not be read for 160 samples, more than 1%, for example 000"):
        trainings.train(tmp_path / "run", checkpoint_every_samples=160)
    train_dir = tmp_path / "run" / "train"
    assert trainings.steps_of(train_dir) == [10, 20]
    bad = [record["bad"].get("unreadable", 0) for record in read_log(train_dir / "seen.jsonl")]
    fractions = [record["unreadable_fraction"] for record in read_log(train_dir / "log.jsonl")]
    assert bad[0] == fractions[0] == 0
    assert fractions[1] == pytest.approx(bad[1] / 160)
    assert fractions[1] > 0.2
    is_repaired.append(True)
    trainings.train(tmp_path / "run", checkpoint_every_samples=160)
    assert trainings.steps_of(train_dir)[-1] == 24


def test_a_log_on_a_full_disk_is_completed_when_there_is_room_again(tmp_path, capfd):
    log = Lines(tmp_path / "log.jsonl", 0)
    plain, room = log.file, [5]

    class Full:
        def write(self, text):
            num_written = plain.write(text[: room[0]])
            room[0] -= num_written
            if not num_written:
                raise OSError(28, "No space left on device")
            return num_written

    for step, file in ((1, plain), (2, Full()), (3, Full()), (4, plain)):
        log.file = file
        log.append({"step": step})
    assert [record["step"] for record in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]
    assert capfd.readouterr().err.count("WARNING") == 1
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"st')  # a kill has cut the line
    assert len(read_log(tmp_path / "log.jsonl")) == 4
