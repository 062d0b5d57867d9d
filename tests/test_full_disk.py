"""A full or read-only disk: one error that names a file, whatever wrote to it; the next call goes on."""

from __future__ import annotations

import errno
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, STDOUT

import pytest
import torch

import worldclip
from killed import contents
from stages import QUIET
from worldclip.cli import main
from worldclip.export.stage import export_model
from worldclip.tools.embed import embed
from worldclip.train.checkpoint_writer import CheckpointWriter, LocalTensor
from worldclip.train.distributed import World

SOURCES = Path(worldclip.__file__).parent


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts a small file system, or changes how it is mounted.

    A shell in a user namespace mounts it, which needs no root.  This process sees it under the shell's /proc/PID/root.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh"]
    try:
        shell = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True)
    except OSError as error:
        pytest.skip(f"a full disk is not tested: no command unshare ({error})")

    def mount(*options: str) -> Path:
        line = f"mount -t tmpfs -o {','.join(options)} tmpfs {shlex.quote(str(folder))} && echo mounted || exit\n"
        with suppress(BrokenPipeError):
            shell.stdin.write(line)
            shell.stdin.flush()
        answer = shell.stdout.readline().strip()
        if answer != "mounted":
            pytest.skip(f"a full disk is not tested: cannot mount a file system in a user namespace: {answer}")
        return Path(f"/proc/{shell.pid}/root{folder}")

    with suppress(BrokenPipeError), shell:  # where unshare refuses, it does not read what is written to it
        yield mount  # the file system ends with its namespace


@contextmanager
def names_a_file_of(folder: Path) -> Iterator[None]:
    """Check that the block fails at a full disk, by an error that names a file below `folder`."""
    with pytest.raises(OSError, match="No space left") as caught:
        yield
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(folder))


def fill(disk: Path, left: int) -> Path:
    """Fill the disk but for `left` bytes."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - left))
    return path


def test_embedding_stops_at_a_full_disk_and_resumes(world, mount):
    disk = mount("size=256k")
    filler = fill(disk, 40_000)
    with names_a_file_of(disk):
        embed(world / "model", world / "pool", disk / "out", of=("texts",), device="cpu", executor=QUIET)
    filler.unlink()
    mount("remount", "size=64m")
    report = embed(world / "model", world / "pool", disk / "out", of=("texts",), device="cpu", executor=QUIET)
    assert report["texts"]["embedded"] == 36


def test_a_checkpoint_that_does_not_fit_names_its_folder(mount):
    disk = mount("size=1m")
    writer = CheckpointWriter(disk, World(), keep_last=1)
    tensors = {"weights.a": LocalTensor(torch.zeros(10**6), (10**6,), 0)}
    writer.start(3, tensors, {}, lambda folder: None)
    with names_a_file_of(disk / "step_000000003"):
        writer.wait()


def test_an_export_that_does_not_fit_leaves_nothing(world, mount):
    disk = mount("size=1m")
    with names_a_file_of(disk):
        export_model(world / "model", disk / "out")
    assert contents(disk) == {}


def test_a_run_names_a_file_of_a_full_or_read_only_disk_and_resumes(toy_world, tmp_path, mount, capfd):
    disk = mount("size=512k")
    filler = fill(disk, 60_000)
    command = ["run", str(toy_world.recipe), "--out", str(disk / "run"), "--until", "curate", "--workers", "1"]
    assert main(command) == 1
    message = capfd.readouterr().err.splitlines()[-1]
    assert re.search(rf"{disk}/run/\S+: No space left on device; free disk space, then rerun the same command", message)
    filler.unlink()
    mount("remount", "size=64m")
    assert main([*command[:-4], "--until", "match", "--workers", "1"]) == 0
    mount("remount", "ro")
    capfd.readouterr()
    assert main(command) != 0
    assert str(disk) in capfd.readouterr().err
    mount("remount", "rw")
    assert main(command) == 0


def test_nothing_is_written_through_a_memory_map():
    """A write to a map of a file ends the process where the disk is full."""
    writable = re.compile(r"open_memmap(?!\([^)]*mode=\"r\"\))|mode=\"(r\+|w\+)\"|ACCESS_WRITE|ACCESS_COPY")
    assert [path for path in SOURCES.rglob("*.py") if writable.search(path.read_text(encoding="utf-8"))] == []
