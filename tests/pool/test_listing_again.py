"""A listing of a pool hashes only what moved since the last one."""

from __future__ import annotations

import os
import shutil
import time

import pyarrow.parquet as pq
import pytest

from calls import before
from small_world import make_recipe, write_world
from worldclip import pool
from worldclip.core import inputs
from worldclip.core.execute import shard_list
from worldclip.core.execute.shard_list import write_stamps
from worldclip.pool import shard_files


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed from now on."""
    inputs._fingerprint_local.cache_clear()
    monkeypatch.setattr(shard_files, "_recent", {})
    monkeypatch.setattr(shard_files, "_records", {})
    names = []
    before(monkeypatch.setattr, inputs, "fingerprint", lambda path, root: names.append(path.name))
    return names


def test_a_listing_hashes_only_files_whose_stamps_moved(tmp_path, hashed, monkeypatch):
    tars = write_world(tmp_path / "run")
    old = time.time() - 100
    first = pool.list_shards(make_recipe(tars).pool)
    assert sorted(hashed) == ["000.tar", "001.tar", "002.tar"]
    monkeypatch.setattr(shard_list, "SETTLED_NS", -(10**9))  # the test has just written them
    write_stamps(tmp_path / "stamps.parquet", first)
    (tars / "001.tar").touch()
    shutil.copy(tars / "000.tar", tars / "other")
    os.replace(tars / "other", tars / "002.tar")
    os.utime(tars / "002.tar", (old, old))
    inputs._fingerprint_local.cache_clear()  # as in another process
    shard_files._recent.clear()
    hashed.clear()
    pool.recall_shards(tmp_path / "stamps.parquet")
    again = pool.list_shards(make_recipe(tars).pool)
    assert sorted(hashed) == ["001.tar", "002.tar"]
    assert [shard.fingerprint for shard in again[:2]] == [shard.fingerprint for shard in first[:2]]
    assert again[2].fingerprint != first[2].fingerprint


def test_a_file_that_has_just_changed_is_hashed_again(tmp_path, hashed):
    tars = write_world(tmp_path / "run")
    write_stamps(tmp_path / "stamps.parquet", pool.list_shards(make_recipe(tars).pool))
    assert pq.read_metadata(tmp_path / "stamps.parquet").num_rows == 0
