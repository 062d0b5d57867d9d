"""Maps over shards: markers, retries, inputs that change meanwhile, and calls with --shards next to each other."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from killed import digests_of_curation, modified
from miniature import write_files
from programs import output_of, python
from worldclip.cli import main
from worldclip.core.artifacts import table_schema, write_table
from worldclip.core.console import say, set_level
from worldclip.core.errors import BadShard, MissingPackage, StageFailed, UserError, require
from worldclip.core.execute import LocalExecutor, Shard, add_counts, mark_done
from worldclip.core.execute.shard_list import InputFile, ShardList
from worldclip.core.job import lock_folder

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


def burn(shard: Shard) -> dict:
    """Take 20 ms of CPU time, for the first shard 0.5 s."""
    until = time.process_time() + (0.5 if shard == SHARDS[0] else 0.02)
    while time.process_time() < until:
        pass
    return {}


def test_cpu_time_leaves_out_the_first_shard_of_each_worker(tmp_path: Path) -> None:
    executor = LocalExecutor(quiet=True)
    for label, shards in (("x", SHARDS), ("y", SHARDS[:1])):
        executor.map(burn, shards, label=label, done_dir=tmp_path / label, key={})
    measured = executor.cpu_time["x"]
    assert measured["shards"] == len(SHARDS) - 1
    assert 0.02 <= measured["seconds"] / measured["shards"] < 0.1
    assert "y" not in executor.cpu_time
    executor = LocalExecutor(workers=2, quiet=True)
    executor.map(burn, SHARDS, label="x", done_dir=tmp_path / "two", key={})
    assert executor.cpu_time["x"]["shards"] in (len(SHARDS) - 2, len(SHARDS) - 1)  # the second may start too late


def test_lines_of_progress_say_what_is_done_and_left_but_not_of_a_quiet_map(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("worldclip.core.execute.loop.LINE_S", 0)
    arguments = {"shards": SHARDS, "label": "x", "key": {}}
    LocalExecutor(quiet=True).map(partial(write_number, tmp_path), done_dir=tmp_path / "quiet", **arguments)
    assert capsys.readouterr().err == ""
    LocalExecutor().map(partial(write_number, tmp_path), done_dir=tmp_path / "said", **arguments)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1:4] for line in said] == [[str(n), "of", "6"] for n in range(1, 6)]
    assert said[0].endswith(" done, 0.0 min left")


def speak(shard: Shard) -> dict:
    say("x", f"reads {shard.name}")
    return {}


@pytest.mark.parametrize(("level", "num_lines"), [(logging.INFO, 2), (logging.WARNING, 0)])
def test_workers_say_lines_as_loudly_as_the_command(tmp_path: Path, level: int, num_lines: int, capfd) -> None:
    set_level(level)
    try:
        LocalExecutor(workers=2).map(speak, SHARDS[:2], label="x", done_dir=tmp_path, key={})
    finally:
        set_level(logging.INFO)
    assert capfd.readouterr().err.count("reads 00") == num_lines


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
        with open(out.with_suffix(".tries"), "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)  # others are worked on beside it
    if shard.name == "003.tar":
        raise ZeroDivisionError("in a library")
    return write_number(out, shard)


@with_two_workers
def test_shards_that_raise_or_lose_their_workers_fail_alone(tmp_path: Path, run_map: Map) -> None:
    many = [Shard(name=f"{n:03}.tar", path="") for n in range(20)]
    with pytest.raises(StageFailed) as failed:
        run_map(partial(die, tmp_path), shards=many)
    failures = failed.value.failures
    assert set(failures) == {"002.tar", "003.tar"}
    assert set(calls(tmp_path)) == {shard.name for shard in many} - {*failures}
    assert re.match("its worker process was lost 3 times: .*memory ran out", failures["002.tar"])
    assert tmp_path.with_suffix(".tries").read_text() == "xxx"
    assert failures["003.tar"].endswith("ZeroDivisionError: in a library")


def test_reports_are_read_on_access(tmp_path: Path) -> None:
    arguments = {"label": "x", "done_dir": tmp_path / "done", "key": {}}
    reports = LocalExecutor(quiet=True).map(partial(write_number, tmp_path), SHARDS, **arguments)
    assert (len(reports), reports[-1]["number"], [one["number"] for one in reports]) == (6, 5, [0, 1, 2, 3, 4, 5])
    assert add_counts(reports, ["number", "pairs"]) == {"number": 15, "pairs": 6}


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


ORPHANING_RUN = """
import os, sys, time
from pathlib import Path
from worldclip.core.execute import LocalExecutor, Shard

def wait_forever(shard):
    (Path(shard.path) / f"{shard.name}.pid").write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    shards = [Shard(name=name, path=sys.argv[1]) for name in "ab"]
    options = {"label": "x", "done_dir": Path(sys.argv[1]) / "done", "key": {}}
    LocalExecutor(workers=2, quiet=True).map(wait_forever, shards, **options)
"""


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ORPHANING_RUN)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(pids := [int(path.read_text() or 0) for path in tmp_path.glob("*.pid")]) < 2 or 0 in pids:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


LOW_LIMIT = """
import os, resource, sys
from pathlib import Path
from worldclip.core.execute import LocalExecutor, Shard

def open_many(shard):
    files = [open(os.devnull) for _ in range(300)]  # open at once, as mapped matchers are
    return {"pairs": len(files)}

resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
shard = Shard(name="0.tar", path="")
print(LocalExecutor(quiet=True).map(open_many, [shard], label="x", done_dir=Path(sys.argv[1]), key={})[0])
"""


def test_more_files_than_the_soft_limit_can_be_open(tmp_path: Path) -> None:
    assert python("-c", LOW_LIMIT, tmp_path) == "{'pairs': 300}\n"


SCHEMA = table_schema("test", number=pa.int64())


def write_two_files(out: Path, shard: Shard) -> dict:
    """As match does: texts, counts, and the marker of the map of counts."""
    for part in ("texts", "counts"):
        write_table(out / part / shard.name, pa.table({"number": [1]}), SCHEMA)
    mark_done(shard, {"pairs": 1}, out / "done_counts", {})
    return {"pairs": 1}


def test_markers_come_after_what_they_mark(tmp_path: Path, monkeypatch) -> None:
    """Every file but a marker is on the disk when a marker gets its name; all files are at the end."""
    made: list[tuple[int, str]] = []  # inode; path of a rename, "" of a sync
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (fsync(handle), made.append((os.fstat(handle).st_ino, ""))))
    monkeypatch.setattr(
        os, "replace", lambda old, new: (made.append((os.stat(old).st_ino, str(new))), replace(old, new))
    )
    options = {"label": "x", "done_dir": tmp_path / "done", "key": {}}
    LocalExecutor(quiet=True).map(partial(write_two_files, tmp_path), SHARDS[:1], **options)
    renames = [(at, inode, path) for at, (inode, path) in enumerate(made) if path]
    assert all((inode, "") in made[:at] for at, inode, _ in renames)
    markers = [at for at, _, path in renames if path.endswith(".json")]
    outputs = [at for at, _, path in renames if not path.endswith(".json")]
    assert (len(markers), len(outputs)) == (2, 2)
    assert max(outputs) < min(markers)


# lists of shards


def test_changes_of_a_list_are_named(tmp_path: Path) -> None:
    files = [InputFile(f"root/{i}.tar", str(tmp_path / f"{i}.tar"), f"{i}.tar") for i in range(4)]
    for i in range(3):
        (tmp_path / f"{i}.tar").write_text(f"contents {i}")
    before = ShardList.of_files(files[:3])
    before.write(tmp_path / "shards.parquet")
    assert ShardList.read(tmp_path / "shards.parquet").record == before.record
    (tmp_path / "1.tar").write_text("other")
    (tmp_path / "2.tar").touch()  # with the same contents
    after = ShardList.of_files(files[1:])
    changes = {name: (old is None, new is None) for name, old, new in after.changes(before)}
    assert changes == {"root/0.tar": (False, True), "root/1.tar": (False, False), "root/3.tar": (True, False)}
    assert "unreadable" in after[-1].fingerprint
    assert before.record != after.record
    with pytest.raises(UserError, match="must be UTF-8; rename the file"):
        ShardList.of_files([InputFile("\udcff.tar", "a.tar", "a.tar")])


# calls with --shards


def test_slices_give_the_bytes_of_one_call(toy_world, curated, tmp_path, capfd) -> None:
    run, recipe = tmp_path / "run", str(toy_world.recipe)
    for part in ("2/2", "1/2"):
        assert main(["pool", recipe, "--out", str(run), "--shards", part]) == 0
    assert not (run / "pool" / "manifest.json").exists()
    assert main(["run", recipe, "--out", str(run), "--until", "metadata"]) == 0
    with lock_folder(run, is_shared=True):  # of a call at the same time
        for part in ("3/3", "1/3"):  # one part of three is lost
            assert main(["match", recipe, "--out", str(run), "--shards", part]) == 0
    assert len(list((run / "match" / "done" / "counts").rglob("*.json"))) == 2
    assert not (run / "match" / "manifest.json").exists()
    before = modified(run / "match", "*.parquet")
    assert main(["run", recipe, "--out", str(run), "--until", "balance"]) == 0
    assert main(["curate", recipe, "--out", str(run), "--shards", "2/2"]) == 0
    before |= modified(run / "curate", "*.tar.parquet")
    assert main(["run", recipe, "--out", str(run), "--until", "curate"]) == 0
    assert before.items() <= modified(run).items(), "what slices did is not done again"
    assert digests_of_curation(run) == curated
    capfd.readouterr()
    assert main(["match", recipe, "--out", str(run), "--shards", "1/3"]) == 0
    assert "is finished and unchanged" in capfd.readouterr().err
    assert digests_of_curation(run) == curated


EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm" / "curate.sh"


# Does at once what `sbatch` would do later: jobs of an array next to each other, in any order.
SBATCH = """#!{python}
import os, subprocess, sys
options = dict(argument.removeprefix("--").partition("=")[::2] for argument in sys.argv[1:])
first, last = map(int, options.get("array", "0-0").split("-"))
def start(job):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(job)}}
    return subprocess.Popen(options["wrap"], shell=True, stdout=sys.stderr, env=environment)
jobs = [start(job) for job in range(last, first - 1, -1)]
assert [job.wait() for job in jobs] == [0] * len(jobs)
print(os.getpid())
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="the example is a script of bash")
@pytest.mark.slow
def test_the_slurm_example_gives_the_bytes_of_one_call(toy_world, curated, tmp_path) -> None:
    ours = f'#!/bin/bash\nexec {sys.executable} -m worldclip "$@"\n'
    programs = write_files(tmp_path / "bin", {"sbatch": SBATCH.format(python=sys.executable), "worldclip": ours})
    for program in programs.iterdir():
        program.chmod(0o755)
    command = ["bash", EXAMPLE, toy_world.recipe, tmp_path / "run", 2]
    output_of(command, PATH=f"{programs}:{os.environ['PATH']}", CPUS_PER_JOB="1")
    assert digests_of_curation(tmp_path / "run") == curated
