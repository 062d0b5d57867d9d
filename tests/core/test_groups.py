"""Short shards in one task: their files are on the disk before their markers, and fewer waits are needed."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from killed import contents, modified
from worldclip.core import artifacts, remote
from worldclip.core.execute import LocalExecutor, Shard, groups, mark_done, reads_input
from worldclip.core.execute.groups import GroupDone, GroupSizes, run_group, take_group
from worldclip.core.execute.shards import Failure, ShardQueue, ShardWork

SCHEMA = artifacts.table_schema("test", number=pa.int64())
MANY = [Shard(name=f"{number:03}.tar", path="") for number in range(200)]


def write_two_files(out: Path, shard: Shard) -> dict:
    """As match does: texts, counts, and the marker of the map of counts."""
    for part in ("texts", "counts"):
        artifacts.write_table(out / part / shard.name, pa.table({"number": [1]}), SCHEMA)
    mark_done(shard, {"pairs": 1}, out / "done_counts", {})
    if shard.name == "013.tar":
        raise ValueError("a bad shard")
    return {"pairs": 1, "long": "x" * 100}


@pytest.fixture
def work(tmp_path: Path) -> ShardWork:
    return ShardWork(fn=partial(write_two_files, tmp_path), done_dir=tmp_path / "done", key="k")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The waits for the disk by inode and the renames, in their order."""
    made: list[tuple[str, str]] = []
    replace, fsync = os.replace, os.fsync
    lock = threading.Lock()

    def renamed(source, target) -> None:
        with lock:
            made.append((f"rename {os.stat(source).st_ino}", os.fspath(target)))
        replace(source, target)

    def synced(handle) -> None:
        fsync(handle)
        with lock:
            made.append((f"sync {os.fstat(handle).st_ino}", ""))

    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(os, "fsync", synced)
    return made


def assert_markers_come_after_what_they_mark(made: list[tuple[str, str]]) -> None:
    """Every file but a marker is on the disk when a marker of its shard gets its name; all files are at the end."""
    synced_at = {kind.partition(" ")[2]: at for at, (kind, _) in enumerate(made) if kind.startswith("sync")}
    inode_of = {target: kind.partition(" ")[2] for kind, target in made if kind.startswith("rename")}
    assert all(inode in synced_at for inode in inode_of.values())
    for at, (kind, target) in enumerate(made):
        if kind.startswith("rename") and target.endswith(".json"):
            shard = Path(target).name.removesuffix(".json")
            files = [path for path in inode_of if Path(path).name == shard]
            assert len(files) == 2
            assert all(synced_at[inode_of[path]] < at for path in files)


@pytest.mark.parametrize("num_shards", [1, 30])
def test_markers_come_after_what_they_mark(num_shards: int, calls, work, tmp_path: Path) -> None:
    done = run_group(work, MANY[:num_shards])
    is_bad = [isinstance(outcome, Failure) for outcome in done.outcomes]
    assert is_bad == [shard.name == "013.tar" for shard in MANY[:num_shards]]
    assert done.outcomes[0] == {"pairs": 1}
    assert len(list((tmp_path / "done").iterdir())) == num_shards - sum(is_bad)
    assert_markers_come_after_what_they_mark(calls)
    assert Counter(kind.partition(" ")[0] for kind, _ in calls)["sync"] == 4 * num_shards - sum(is_bad)


def test_a_task_waits_for_the_disk_a_few_times_however_many_shards_it_has(work, monkeypatch) -> None:
    num_waiting, most = Counter(), Counter()

    def slow_sync(handle: int) -> None:
        num_waiting["now"] += 1
        most["at once"] = max(most["at once"], num_waiting["now"])
        time.sleep(0.01)
        num_waiting["now"] -= 1

    monkeypatch.setattr(os, "fsync", slow_sync)
    run_group(work, MANY[:40])
    assert most["at once"] > 8


def test_a_killed_task_leaves_no_marker_and_its_shards_run_again(work, tmp_path: Path) -> None:
    def stop(shard: Shard) -> dict:
        if shard.name == "004.tar":
            raise KeyboardInterrupt
        return write_two_files(tmp_path, shard)

    stopped = ShardWork(fn=stop, done_dir=tmp_path / "done", key="k")
    with pytest.raises(KeyboardInterrupt):
        run_group(stopped, MANY[:8])
    assert not (tmp_path / "done").exists()
    assert not (tmp_path / "done_counts").exists()
    run_group(work, MANY[:8])
    assert len(list((tmp_path / "done").iterdir())) == 8
    before = modified(tmp_path / "texts")
    run_group(work, MANY[:9])
    assert before.items() < modified(tmp_path / "texts").items(), "what is done is not done again"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_map_of_many_short_shards_leaves_what_single_ones_leave(workers: int, tmp_path: Path, monkeypatch) -> None:
    found = []
    for num_most in (1_000, 1):
        monkeypatch.setattr(groups, "MAX_SHARDS_PER_TASK", num_most)
        out = tmp_path / str(num_most)
        good = [shard for shard in MANY if shard.name != "013.tar"]
        executor = LocalExecutor(workers=workers, quiet=True)
        reports = executor.map(partial(write_two_files, out), good, label="x", done_dir=out / "done", key={})
        assert [report["long"] for report in reports] == ["x" * 100] * len(good)
        found.append(contents(out))
    assert found[0] == found[1]
    assert len(found[0]) == 4 * (len(MANY) - 1)


def test_tasks_take_more_shards_the_shorter_they_are() -> None:
    sizes = GroupSizes()
    assert sizes.of_next(MANY[0], 2, 10_000) == 1
    sizes.add(GroupDone([{}] * 10, 0.1))
    assert sizes.of_next(MANY[0], 2, 10_000) == 50
    assert sizes.of_next(MANY[0], 2, 80) == 10, "the last tasks are small, so that all workers end together"
    assert sizes.of_next(MANY[0], 2, 10_000, least_s=2.0) == 200
    assert sizes.of_next(Shard(name="a", path="s3://b/a"), 2, 10_000) == 500
    queue, tries = ShardQueue(MANY[:5]), Counter({MANY[0].name: 1, MANY[3].name: 1})
    assert [len(take_group(queue, tries, 10)) for _ in range(4)] == [1, 2, 1, 1]


@reads_input
def read_and_compute(shard: Shard) -> dict:
    file = remote.kept_file(shard.path)
    assert file is not None
    content = file.read(0, 4)
    time.sleep(0.05)
    return {"pairs": len(content)}


def test_the_next_remote_shard_is_read_while_one_is_worked_on(tmp_path: Path, monkeypatch) -> None:
    read_by: list[tuple[str, str]] = []

    def slow_range(url: str, start: int, stop: int) -> bytes:
        read_by.append((url[-1], threading.current_thread().name))
        if url.endswith("3") and [number for number, _ in read_by].count("3") == 1:
            raise OSError("gone for a moment")
        time.sleep(0.05)
        return b"abcd"

    shards = [Shard(name=f"{n}", path=f"memory://ahead/{n}", fingerprint={"path": f"{n}", "size": 4}) for n in range(6)]
    monkeypatch.setattr(remote, "read_range", slow_range)
    monkeypatch.setattr(Shard, "present_fingerprint", lambda shard: shard.fingerprint)
    done = run_group(ShardWork(fn=read_and_compute, done_dir=tmp_path / "done", key="k"), shards)
    assert done.outcomes == [{"pairs": 4}] * 6
    numbers = sorted(number for number, _ in read_by)
    assert numbers == ["0", "1", "2", "3", "3", "4", "5"], "what failed ahead is read again"
    assert Counter(name == "MainThread" for _, name in read_by) == {True: 2, False: 5}
