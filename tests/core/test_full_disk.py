"""A full disk: the message names the file and the disk, in one line, and what was written before stays."""

import errno
import os
import re
import resource
import shutil
from pathlib import Path

import pytest

from killed import contents
from miniature import write_files
from pools import write_table
from worldclip.cli import main
from worldclip.core.errors import describe_disk
from worldclip.core.job import lock_folder

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full, which macOS lacks")
FULL = OSError(errno.ENOSPC, "No space left on device")  # as a write raises it: it names no file
DISK = r"the disk at /.* has [\d,.]+ of [\d,.]+ GiB free; free disk space, then rerun the same command to resume"
RECIPE = '[pool]\npath = "pool"\nkey = "uid"\n[languages]\ncodes = ["en"]\n[metadata]\nlists = { en = "en.txt" }\n'
RECIPE += "[balance]\ntail_fraction = 0.1\n"


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> str:
    write_table(tmp_path / "pool/0.parquet", {"uid": ["a", "b"], "text": ["a red apple", "a blue car"]})
    write_table(tmp_path / "pool/1.parquet", {"uid": ["c"], "text": ["a red car"]})
    write_files(tmp_path, {"en.txt": "red\ncar\n", "my.toml": RECIPE})
    monkeypatch.chdir(tmp_path)
    return "my.toml"


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """Return the last line that a command says, which fails with exit code 1 and without a traceback."""
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "Logging error" not in said
    return said.splitlines()[-1]


def test_a_file_above_the_limit_of_the_process_is_named(recipe, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        line = refusal(capsys, "run", recipe, "--until", "pool")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.search(r"runs/my/run\.json: File too large; the disk at /.*; raise the limit of a file's size", line)


@needs_dev_full
def test_a_log_that_cannot_grow_stops_the_run_and_is_named_with_its_disk(recipe, capsys):
    Path("runs/my").mkdir(parents=True)
    Path("runs/my/log.txt").symlink_to("/dev/full")
    line = refusal(capsys, "run", recipe, "--until", "pool")
    assert re.search(rf"runs/my/log\.txt: No space left on device; {DISK}$", line)


def test_a_lock_that_cannot_be_written_is_named_and_is_free_again(recipe, tmp_path, monkeypatch, capsys):
    def write(descriptor: int, data: bytes) -> int:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr("worldclip.core.job.os.write", write)
        assert re.search(rf"runs/my/\.lock: No space left .*{DISK}$", refusal(capsys, "run", recipe, "--until", "pool"))
    with lock_folder(tmp_path / "runs/my"):
        pass


def test_the_measured_cpu_time_is_lost_and_not_the_run_where_it_does_not_fit(recipe, monkeypatch):
    assert main(["run", recipe, "--until", "pool"]) == 0

    def fail(*_: object) -> None:
        raise FULL

    monkeypatch.setattr("worldclip.contracts.records.write_json", fail)
    assert main(["run", recipe, "--until", "match"]) == 0


def test_stages_that_do_not_fit_are_named_and_no_part_of_them_stays(recipe, monkeypatch, capsys):
    assert main(["run", recipe, "--until", "match"]) == 0

    def fail(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(shutil, "copy2", fail)
    line = refusal(capsys, "run", recipe, "--out", "second", "--from-run", "runs/my", "--until", "curate")
    assert re.search(rf"second/pool: No space left on device; {DISK}$", line)
    assert set(contents(Path("second"))) == {".lock", "branch.json"}


def test_a_disk_is_named_by_its_mount_point_and_one_without_inodes_says_so(tmp_path, monkeypatch):
    assert re.fullmatch(r"the disk at /.* has [\d,.]+ of [\d,.]+ GiB free", describe_disk(tmp_path / "new/file"))
    mounts = {str(tmp_path), "/"}
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) in mounts)
    values = [4096, 4096, 2**20, 0, 0, 100, 0, 0, 0, 255]
    monkeypatch.setattr("os.statvfs", lambda path: os.statvfs_result(values))
    assert describe_disk(tmp_path / "new/file") == f"the disk at {tmp_path} has no room for more files"
    values[6:8] = [5, 5]
    assert describe_disk(tmp_path / "new/file") == f"the disk at {tmp_path} has 0.0 of 4.0 GiB free"
