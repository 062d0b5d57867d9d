"""A tar that changes or goes in the middle of training: its pairs are replaced and counted, never read wrong."""

from __future__ import annotations

import builtins
import os
import shutil
from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest

import trainings
from calls import calls_of, fail_at
from small_world import COLOURS, write_world
from worldclip.core import inputs
from worldclip.core.errors import BadShard, UserError
from worldclip.core.execute import Shard
from worldclip.pool.files import StampedFile
from worldclip.train import image_files, loader
from worldclip.train.image_files import ImageFiles

FIRST = {f"{n:05}" for n in range(8)}  # keys of 000.tar


@pytest.fixture(params=[0, 3], ids=["windows", "streams"])
def make_loader(request, tmp_path, monkeypatch):
    """A function that opens the loader of a small world; decoded images are not kept."""
    monkeypatch.setattr(loader, "CACHE_BYTES", 0)
    monkeypatch.setattr(image_files, "RETRY_S", 0.05)
    monkeypatch.setattr(image_files, "WAIT_S", 0.01)
    write_world(tmp_path / "run")
    options = {"num_streams": request.param, "crop_scale_min": 1.0, "shuffle_shards": 64}
    return lambda: trainings.make_loader(tmp_path / "run", **options)


def read_epoch(of: loader.Loader) -> tuple[set[str], Counter[str]]:
    """Return the keys and the bad images of an epoch; each image shows what its text says."""
    keys: set[str] = set()
    bad: Counter[str] = Counter()
    for step in range(6):
        batch = of.batch(step)
        keys |= set(batch.keys)
        bad += batch.bad.counts
        for key, image in zip(batch.keys, batch.images, strict=True):
            n = int(key)
            centre = image[:, 7:9, 7:9].float().mean((1, 2)).numpy()
            distances = [np.abs(centre - rgb).sum() for rgb in COLOURS.values()]
            assert int(np.argmin(distances)) == n % len(COLOURS), key
    return keys, bad


def replace_tar(tar: Path) -> None:
    """Give another tar of the same size the name."""
    other = shutil.copy(tar.with_name("001.tar"), tar.with_name("copy"))
    os.replace(other, tar)


def overwrite_in_place(tar: Path) -> None:
    """Write other pairs over the file, and set its modification time back."""
    before = tar.stat()
    with open(tar, "r+b") as file:
        file.write(tar.with_name("002.tar").read_bytes())
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_tar(tar: Path) -> None:
    os.truncate(tar, 600)


@pytest.mark.parametrize("change", [replace_tar, overwrite_in_place, cut_tar, Path.unlink])
def test_pairs_of_a_tar_that_changes_are_replaced_and_counted(make_loader, tmp_path, capfd, change):
    of = make_loader()
    assert read_epoch(of) == ({f"{n:05}" for n in range(24)}, Counter())
    change(tmp_path / "tars" / "000.tar")
    keys, bad = read_epoch(of)
    assert keys.isdisjoint(FIRST)
    assert set(bad) == {"unreadable"}
    assert bad["unreadable"] >= 8
    assert capfd.readouterr().err.count("000.tar: ") == 1


def test_a_tar_that_was_only_touched_is_read_on(make_loader, tmp_path):
    of = make_loader()
    os.utime(tmp_path / "tars" / "000.tar", (1, 1))
    copy = shutil.copy(tmp_path / "tars" / "001.tar", tmp_path / "copy")
    os.replace(copy, tmp_path / "tars" / "001.tar")
    assert read_epoch(of) == ({f"{n:05}" for n in range(24)}, Counter())


def test_a_tar_that_comes_back_is_read_again(make_loader, tmp_path):
    of = make_loader()
    tar = tmp_path / "tars" / "000.tar"
    tar.rename(tmp_path / "aside")
    assert read_epoch(of)[0].isdisjoint(FIRST)
    (tmp_path / "aside").rename(tar)
    assert read_epoch(of) == ({f"{n:05}" for n in range(24)}, Counter())


def test_a_pool_that_is_gone_ends_training_and_names_a_tar(make_loader, tmp_path):
    of = make_loader()
    shutil.rmtree(tmp_path / "tars")
    with pytest.raises(UserError, match=r"for example 000\d\d: unreadable: 00\d.tar: cannot be read"):
        of.batch(0)


def test_a_read_is_tried_again_and_then_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "WAIT_S", 0.001)
    (tmp_path / "0.tar").write_bytes(b"0123456789")
    files = ImageFiles([Shard.of_file("0.tar", str(tmp_path / "0.tar"))])
    for _ in range(2):
        fail_at(monkeypatch.setattr, StampedFile, "read", 1, BadShard("cannot be read (Stale file handle)"))
    reads = calls_of(monkeypatch.setattr, StampedFile, "read")
    assert files.read(0, 2, 3) == b"234"
    assert len({file for file, *_ in reads}) == 3, "a file that failed was not opened anew"
    with pytest.raises(BadShard, match=r"0\.tar: ends before byte 15"):
        files.read(0, 5, 10)


def test_files_stay_open_as_long_as_there_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "OPEN_FILES", 2)
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(b"0123456789")
    num_open = len(os.listdir("/proc/self/fd"))
    files = ImageFiles([Shard.of_file(f"{n}.tar", str(tmp_path / f"{n}.tar")) for n in range(3)])
    opened = calls_of(monkeypatch.setattr, os, "open")
    for i in (0, 1, 0, 1, 2, 1, 2, 0):  # 2 closes 0
        assert files.read(i, 2, 3) == b"234"
    assert [Path(path).name for path, *_ in opened] == ["0.tar", "1.tar", "2.tar", "0.tar"]
    assert len(os.listdir("/proc/self/fd")) == num_open + 2
    del files
    assert len(os.listdir("/proc/self/fd")) == num_open


def test_a_step_opens_no_file_once_its_shards_are_open(make_loader, monkeypatch):
    of = make_loader()
    read_epoch(of)
    opened = [calls_of(monkeypatch.setattr, owner, "open") for owner in (builtins, os)]
    for step in range(6, 12):
        assert len(of.batch(step).keys) == 12
    assert opened == [[], []]


def test_a_remote_tar_that_changes_is_noticed_at_the_next_check(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/changing/0.tar", b"0123456789")
    files = ImageFiles([Shard.of_file("0.tar", "memory://changing/0.tar")])
    assert files.read(0, 2, 3) == b"234"
    memory.pipe("/changing/0.tar", b"abcdefghij")
    monkeypatch.setattr(image_files, "REMOTE_CHECK_S", 0.0)
    with pytest.raises(BadShard, match=r"0\.tar: changed after it was indexed"):
        files.read(0, 2, 3)
    memory.rm("/changing", recursive=True)


def test_a_remote_tar_counts_as_unchanged_while_its_server_does_not_answer(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/silent/0.tar", b"0123456789")
    files = ImageFiles([Shard.of_file("0.tar", "memory://silent/0.tar")])
    monkeypatch.setattr(image_files, "REMOTE_CHECK_S", 0.0)
    fail_at(monkeypatch.setattr, inputs, "_fingerprint_remote", 1, TimeoutError("no answer"))
    assert files.read(0, 2, 3) == b"234"
    memory.pipe("/silent/0.tar", b"abcdefghij")
    with pytest.raises(BadShard, match=r"0\.tar: changed after it was indexed"):
        files.read(0, 2, 3)
    memory.rm("/silent", recursive=True)
