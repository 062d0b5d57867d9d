"""A device, a FIFO or a socket in the place of a file is refused by name: its reader would never end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages import QUIET
from tars import shard_of
from worldclip.core import artifacts, keys, regular_file, toml_files
from worldclip.core.errors import BadShard, StageFailed, UserError
from worldclip.core.job import Run
from worldclip.evaluate.datasets import cvqa
from worldclip.evaluate.datasets.common import images, text_files
from worldclip.metadata import lists
from worldclip.metadata.sources import dumps
from worldclip.model import load, weights
from worldclip.model.images import open_image
from worldclip.pool import files
from worldclip.pool import stage as pool_stage
from worldclip.pool.config import PoolConfig
from worldclip.pool.formats.delimited import CSV
from worldclip.pool.formats.jsonl import JSONL
from worldclip.pool.formats.parquet import PARQUET

KINDS = {"device": "a device", "fifo": "a FIFO", "socket": "a socket"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """End a reader that waits or never ends."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader did not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make(path: Path, kind: str) -> Path:
    """Put a link to /dev/zero, a FIFO or a socket at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as server:  # a socket's whole path has at most 107 bytes
            server.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    return path


CONFIG = PoolConfig(path=".", key="uid")
READERS: dict[str, Callable[[Path], object]] = {
    "fingerprint": lambda path: artifacts.fingerprint(path, path.parent),
    "json": artifacts.read_json,
    "recipe.toml": toml_files.read_toml,
    "entries.txt.gz": lambda path: list(lists.iter_lines(str(path))),
    "dump.xml": lambda path: list(dumps.read_texts(path)),
    "dump.xml.bz2": lambda path: list(dumps.read_texts(path)),
    "list.parquet": lambda path: lists.write_whole_list(str(path), path.with_name("copy.parquet"), 256),
    "keys.npy": lambda path: keys.key_lists(str(path), ()),
    "keys.parquet": lambda path: keys.key_lists(None, [str(path)]),
    "0.jsonl": lambda path: JSONL.field_names(shard_of(path), CONFIG),
    "0.csv": lambda path: CSV.field_names(shard_of(path), CONFIG),
    "0.parquet": lambda path: PARQUET.count_rows(shard_of(path), CONFIG),
    "bytes": lambda path: files.FileBytes(str(path)),
    "range": lambda path: files.read_range(str(path), 0, 10),
    "dataset.txt": text_files.read_lines,
    "dataset.json": text_files.read_json,
    "dataset.parquet": lambda path: list(cvqa._rows(path)),
    "dataset.jpg": images._read,
    "config.json": weights.read_json_config,
    "model": lambda path: load.find(make(path.parent / "folder" / "model.safetensors", "device").parent),
}


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no devices here")
@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_special_files(name, kind, tmp_path):
    path = make(tmp_path / name, kind)
    with pytest.raises((UserError, BadShard, OSError), match=r"not a file|such device or address"):
        READERS[name](path)


def test_a_picture_that_is_no_file_is_refused(kind, tmp_path):
    reason = open_image(make(tmp_path / "a.png", kind), applies_exif=True)
    assert str(reason).startswith("cannot be read (")


@pytest.mark.parametrize("suffix", [".tar", ".jsonl", ".parquet", ".csv"])
def test_shards_that_are_no_files_fail_by_name(suffix, tmp_path):
    make(tmp_path / "pool" / f"0{suffix}", "device")
    config = PoolConfig(path=str(tmp_path / "pool"), key="member" if suffix == ".tar" else "uid")
    run = Run.of(tmp_path / "run", config, executor=QUIET)
    with pytest.raises((UserError, StageFailed), match=rf"0\{suffix}.*"):
        pool_stage.index(run)


def test_a_regular_file_is_opened_as_ever(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert regular_file.read_regular(tmp_path / "b") == b"abc"
    with pytest.raises(IsADirectoryError):
        regular_file.read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        regular_file.read_regular(tmp_path / "c")
