"""Shards of a large pool as columns: the same shards as a list of objects, in a fraction of the memory."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import pytest

from worldclip.core.errors import UserError
from worldclip.core.execute import LocalExecutor, Shard, shard_list
from worldclip.core.execute.shard_list import (
    InputFile,
    KnownFiles,
    ShardList,
    read_part,
    read_shards,
    write_stamps,
)
from worldclip.core.execute.shards import Chosen, ShardQueue
from worldclip.core.safe_path import UnsafeName


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[InputFile]:
    """Seven files, one of them missing, below a folder whose name is not UTF-8; pieces of three shards."""
    monkeypatch.setattr(shard_list, "AT_ONCE", 3)
    folder = tmp_path / os.fsdecode(b"pool\xff") if os.uname().sysname != "Darwin" else tmp_path / "pool"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.tar").write_text(f"contents {i}")
    return [InputFile(f"root/{i}.tar", str(folder / f"{i}.tar"), f"{i}.tar") for i in range(7)]


def test_a_list_has_the_shards_of_its_files(files) -> None:
    expected = [Shard.of_file(*file) for file in files]
    shards = ShardList.of_files(files)
    assert list(shards) == [shards[i] for i in range(7)] == expected == shards
    assert [shard.stamp for shard in shards] == [shard.stamp for shard in expected]
    assert shards[-1] == expected[-1]
    assert "unreadable" in shards[-1].fingerprint
    assert list(shards[1::3]) == expected[1::3]
    assert shards.names() == [file.name for file in files]
    assert pickle.loads(pickle.dumps(shards)) == shards
    with pytest.raises(IndexError):
        shards[7]
    assert list(ShardList.of_files([])) == []


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
def test_a_part_is_read_from_the_written_list(files, tmp_path, number) -> None:
    shards = ShardList.of_files(files)
    shards.write(tmp_path / "shards.parquet")
    assert read_shards(tmp_path / "shards.parquet").record == shards.record
    for first in range(number):
        part = slice(first, None, number)
        found = read_part(tmp_path / "shards.parquet", part)
        assert found == [(shard.name, shard.fingerprint) for shard in list(shards)[part]]


def test_changes_are_named(files) -> None:
    before = ShardList.of_files(files[:-1])
    Path(files[2].path).write_text("other")
    Path(files[4].path).touch()  # with the same contents
    after = ShardList.of_files([file for file in files if file not in files[:1]])
    changes = {name: (old is None, new is None) for name, old, new in after.changes(before)}
    assert changes == {"root/0.tar": (False, True), "root/2.tar": (False, False), "root/6.tar": (True, False)}
    assert before.record != after.record
    assert list(before.changes(before)) == []


def test_only_files_whose_stamps_moved_are_hashed_again(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shard_list, "SETTLED_NS", -(10**9))  # the test has just written them
    first = ShardList.of_files(files)
    write_stamps(tmp_path / "stamps.parquet", first)
    asked = []
    fingerprint_of = shard_list.fingerprint_of
    monkeypatch.setattr(
        shard_list, "fingerprint_of", lambda path, name: asked.append(name) or fingerprint_of(path, name)
    )
    for known in (KnownFiles.of(first), KnownFiles.read(tmp_path / "stamps.parquet")):
        assert ShardList.of_files(files, known) == first
        assert asked == ["6.tar"], "the one that is not there"
        asked.clear()
    Path(files[3].path).touch()
    assert ShardList.of_files(files[::-1], KnownFiles.of(first)) == list(first)[::-1]
    assert asked == ["6.tar", "3.tar"]
    assert KnownFiles.read(tmp_path / "none.parquet") is None


def test_a_list_is_still_right_while_no_stamp_moves(files) -> None:
    shards = ShardList.of_files(files[:-1])
    assert shards.is_still(files[:-1])
    assert not shards.is_still(files[:-2])
    assert not shards.is_still(files[-2::-1])
    assert not shards.is_still([file._replace(recorded_as=file.name) for file in files[:-1]])
    assert not ShardList.of_files(files).is_still(files), "what cannot be read is looked at again"
    Path(files[4].path).touch()
    assert not shards.is_still(files[:-1])


def test_names_are_checked(tmp_path) -> None:
    with pytest.raises(UnsafeName):
        ShardList.of_files([InputFile("../a.tar", "a.tar", "a.tar")])
    with pytest.raises(UserError, match="must be UTF-8; rename the file"):
        ShardList.of_files([InputFile("\udcff.tar", "a.tar", "a.tar")])


def test_a_shard_takes_little_memory() -> None:
    number = 20_000
    names = [f"{i // 1000:03}/{i:06}.parquet" for i in range(number)]
    files = [InputFile(name, f"/pool/{name}", name) for name in names]
    ShardList.of_files(files)  # imports what it needs; pathlib's table of interned names grows
    tracemalloc.start()
    shards = ShardList.of_files(files)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pickle.dumps(shards)) / number < 350
    assert len(shards) == number
    assert peak < number * 500, "some shards are objects at a time; all of them would take 1,500 bytes each"


def test_a_map_works_on_the_unfinished_shards_of_a_list(files, tmp_path) -> None:
    shards, seen = ShardList.of_files(files), []
    run = partial(LocalExecutor(quiet=True).map, shards=shards, label="x", done_dir=tmp_path / "done", key={})
    assert len(run(lambda shard: {"pairs": 1})) == 7
    (tmp_path / "done" / "root" / "3.tar.json").unlink()
    reports = run(lambda shard: seen.append(shard.name) or {"pairs": 1})
    assert [report["pairs"] for report in reports] == [1] * 7
    assert seen == ["root/3.tar"]


def test_a_queue_gives_each_shard_once_and_those_that_run_again_last(files) -> None:
    shards = ShardList.of_files(files)
    queue = ShardQueue(Chosen(shards, [4, 2, 0]))
    assert queue.peek() == queue.popleft() == shards[4]
    queue.append(shards[4])
    assert len(queue) == 3
    assert [queue.popleft().name for _ in range(3)] == ["root/2.tar", "root/0.tar", "root/4.tar"]
    assert not queue
