from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from worldclip.core.artifacts import table_schema, write_table
from worldclip.core.errors import BadShard, MissingPackage, StageFailed, UserError, require
from worldclip.core.execute import LocalExecutor, Shard, add_counts, are_done, mark_done

SHARDS = [Shard(name=f"{n:03}.tar", path="", fingerprint={"size": n}) for n in range(6)]


def write_number(out: Path, shard: Shard) -> dict:
    with open(out / "calls", "a") as calls:
        calls.write(f"{shard.name}\n")
    return {"pairs": 1, "number": int(shard.name[:3])}


def fail_on(bad: str, out: Path, shard: Shard) -> dict:
    if shard.name == bad:
        raise BadShard("truncated after 3 samples")
    return write_number(out, shard)


def die_once(out: Path, shard: Shard) -> dict:
    flag = out / "died"
    if shard.name == "002.tar" and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return write_number(out, shard)


def out_of_space(shard: Shard) -> dict:
    raise OSError(28, "No space left on device")


def calls(out: Path) -> list[str]:
    return (out / "calls").read_text().split() if (out / "calls").exists() else []


Map = Callable[..., Sequence[dict]]


@pytest.fixture(params=[1, 2])
def run_map(request, tmp_path: Path) -> Map:
    """Map over SHARDS with one worker, which is this process, and with two."""
    executor = LocalExecutor(workers=request.param, quiet=True)
    return partial(executor.map, shards=SHARDS, label="x", done_dir=tmp_path / "done", key={})


with_two_workers = pytest.mark.parametrize("run_map", [2], indirect=True)


def test_reports_come_in_shard_order_and_a_second_call_does_nothing(tmp_path: Path, run_map: Map) -> None:
    for _ in range(2):
        reports = run_map(partial(write_number, tmp_path))
        assert [report["number"] for report in reports] == list(range(6))
    assert sorted(calls(tmp_path)) == [shard.name for shard in SHARDS]
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == [f"{shard.name}.json" for shard in SHARDS]


def test_only_the_failed_shard_is_retried(tmp_path: Path, run_map: Map) -> None:
    with pytest.raises(StageFailed) as failed:
        run_map(partial(fail_on, "002.tar", tmp_path))
    assert failed.value.failures == {"002.tar": "truncated after 3 samples"}
    assert "repair or remove only files that a reason calls damaged" in str(failed.value)
    assert len(calls(tmp_path)) == 5
    run_map(partial(write_number, tmp_path))
    assert calls(tmp_path)[5:] == ["002.tar"]


def test_changed_fingerprint_or_key_reruns_the_shard(tmp_path: Path) -> None:
    run = partial(LocalExecutor(quiet=True).map, partial(write_number, tmp_path), label="x", done_dir=tmp_path / "done")
    run(SHARDS, key={"a": 1})
    changed = [*SHARDS[:-1], Shard(name=SHARDS[-1].name, path="", fingerprint={"size": 99})]
    run(changed, key={"a": 1})
    assert len(calls(tmp_path)) == 7
    run(changed, key={"a": 2})
    assert len(calls(tmp_path)) == 13


def write_key(out: Path, key: str, is_killed: bool, shard: Shard) -> dict:
    (out / shard.name).write_text(key)
    if is_killed:
        raise KeyboardInterrupt
    return {}


def test_an_output_that_a_killed_call_rewrote_under_another_key_is_written_again(tmp_path: Path) -> None:
    """The marker of the first key goes before the output changes: it would vouch for an output of the second."""
    run = partial(LocalExecutor(quiet=True).map, shards=SHARDS, label="x", done_dir=tmp_path / "done")
    run(partial(write_key, tmp_path, "A", False), key="A")
    with pytest.raises(KeyboardInterrupt):
        run(partial(write_key, tmp_path, "B", True), key="B")
    assert (tmp_path / SHARDS[0].name).read_text() == "B"
    run(partial(write_key, tmp_path, "A", False), key="A")
    assert [(tmp_path / shard.name).read_text() for shard in SHARDS] == ["A"] * len(SHARDS)


@with_two_workers
def test_shards_of_a_killed_worker_are_retried(tmp_path: Path, run_map: Map) -> None:
    assert [report["number"] for report in run_map(partial(die_once, tmp_path))] == list(range(6))


def die(out: Path, shard: Shard) -> dict:
    """End as the kernel ends a process."""
    if shard.name == "002.tar":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)  # others are worked on beside it
    return write_number(out, shard)


@with_two_workers
def test_shard_that_loses_its_workers_fails_alone(tmp_path: Path, run_map: Map) -> None:
    many = [Shard(name=f"{n:03}.tar", path="") for n in range(20)]
    with pytest.raises(StageFailed) as failed:
        run_map(partial(die, tmp_path), shards=many)
    assert list(failed.value.failures) == ["002.tar"]
    assert set(calls(tmp_path)) == {shard.name for shard in many} - {"002.tar"}
    assert failed.value.failures["002.tar"].startswith("its worker process was lost 3 times: memory ran out")


def test_reports_are_read_on_access(tmp_path: Path) -> None:
    arguments = {"label": "x", "done_dir": tmp_path / "done", "key": {}}
    assert not are_done(SHARDS, tmp_path / "done", {})
    reports = LocalExecutor(quiet=True).map(partial(write_number, tmp_path), SHARDS, **arguments)
    assert are_done(SHARDS, tmp_path / "done", {})
    assert not are_done([*SHARDS, Shard(name="6.tar", path="")], tmp_path / "done", {})
    assert (len(reports), reports[-1]["number"], [one["number"] for one in reports[4:0:-2]]) == (6, 5, [4, 2])
    assert add_counts(reports, ["number", "pairs"]) == {"number": 15, "pairs": 6}
    (tmp_path / "done" / "003.tar.json").unlink()
    assert reports[2]["number"] == 2
    with pytest.raises(FileNotFoundError):
        reports[3]


def import_missing(shard: Shard) -> dict:
    require("nowhere.at.all", extra="pool")
    return {}


@pytest.mark.parametrize(
    ("work", "error", "words"),
    [
        (out_of_space, OSError, "No space left"),
        (import_missing, MissingPackage, r"nowhere\.at\.all is needed here: pip install .*\[pool\]"),
    ],
)
def test_error_of_every_shard_stops_the_map_and_blames_none(tmp_path: Path, run_map: Map, work, error, words) -> None:
    with pytest.raises(error, match=words):
        run_map(work)
    assert not list(tmp_path.glob("done/*.json"))


def wait_forever(out: Path, shard: Shard) -> dict:
    (out / f"{shard.name}.pid").write_text(str(os.getpid()))
    time.sleep(600)
    return {}


ORPHANING_RUN = """
import sys
from functools import partial
from pathlib import Path
from test_execute import SHARDS, wait_forever
from worldclip.core.execute import LocalExecutor
if __name__ == "__main__":
    out = Path(sys.argv[1])
    executor = LocalExecutor(workers=2, quiet=True)
    executor.map(partial(wait_forever, out), SHARDS[:2], label="x", done_dir=out / "done", key={})
"""


def start_script(code: str, folder: Path) -> subprocess.Popen:
    """Start a script that imports from this file, whose argument is its folder."""
    (folder / "script.py").write_text(code)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(folder / "script.py"), str(folder)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = start_script(ORPHANING_RUN, tmp_path)
    deadline = time.monotonic() + 60
    while len(pids := [int(path.read_text() or 0) for path in tmp_path.glob("*.pid")]) < 2 or 0 in pids:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_must_be_positive() -> None:
    with pytest.raises(UserError, match="at least 1"):
        LocalExecutor(workers=0)


def open_many(out: Path, shard: Shard) -> dict:
    files = [open(os.devnull) for _ in range(300)]  # noqa: SIM115  open at once, as mapped matchers are
    for file in files:
        file.close()
    return {"pairs": 1}


LOW_LIMIT = """
import resource, sys
from functools import partial
from pathlib import Path
from test_execute import SHARDS, open_many
from worldclip.core.execute import LocalExecutor

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    folder = Path(sys.argv[1])
    for workers in (1, 2):
        executor = LocalExecutor(workers=workers, quiet=True)
        executor.map(partial(open_many, folder), SHARDS, label="x", done_dir=folder / str(workers), key={})
"""


def test_more_files_than_the_soft_limit_can_be_open(tmp_path: Path) -> None:
    assert start_script(LOW_LIMIT, tmp_path).wait() == 0


SCHEMA = table_schema("test", number=pa.int64())


def write_two_files(out: Path, shard: Shard) -> dict:
    """As match does: texts, counts, and the marker of the map of counts."""
    for part in ("texts", "counts"):
        write_table(out / part / shard.name, pa.table({"number": [1]}), SCHEMA)
    mark_done(shard, {"pairs": 1}, out / "done_counts", {})
    return {"pairs": 1}


def test_markers_come_after_what_they_mark(tmp_path: Path, monkeypatch) -> None:
    """Every file but a marker is on the disk when a marker gets its name; all files are at the end."""
    made: list[tuple[str, int, str]] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (fsync(handle), made.append(("sync", os.fstat(handle).st_ino, ""))))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (made.append(("rename", os.stat(old).st_ino, str(new))), replace(old, new))
    )
    options = {"label": "x", "done_dir": tmp_path / "done", "key": {}}
    LocalExecutor(quiet=True).map(partial(write_two_files, tmp_path), SHARDS[:1], **options)
    synced_at = {inode: at for at, (kind, inode, _) in enumerate(made) if kind == "sync"}
    named_at = {path: (at, inode) for at, (kind, inode, path) in enumerate(made) if kind == "rename"}
    assert all(inode in synced_at for _, inode in named_at.values())
    markers = [at for path, (at, _) in named_at.items() if path.endswith(".json")]
    outputs = [inode for path, (_, inode) in named_at.items() if not path.endswith(".json")]
    assert (len(markers), len(outputs)) == (2, 2)
    assert max(synced_at[inode] for inode in outputs) < min(markers)
