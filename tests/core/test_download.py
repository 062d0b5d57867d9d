"""Downloads that a later call resumes: the parts of two versions are never joined."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from served import Server
from served import server as server  # a fixture
from worldclip.core.download import Broken, Client, Download

OLD, NEW = b"a" * 3000, b"b" * 3000


def fetch(server: Server, folder: Path, path: str = "/list.bin", sha256: str | None = None) -> bytes:
    Client(user_agent="worldclip", pause=lambda seconds: None).fetch(
        Download(url=server.url + path, path=folder / "list.bin", sha256=sha256)
    )
    return (folder / "list.bin").read_bytes()


def leave_a_part(server: Server, folder: Path, path: str = "/list.bin") -> None:
    """Break off after 1,000 bytes, and fail until the call gives up."""
    server.cut[path] = 1000
    server.busy = {}
    server.faults[path] = ["", *["500"] * 6]
    with pytest.raises(Broken, match="gave up"):
        fetch(server, folder, path)
    assert (folder / "list.bin.part").stat().st_size == 1000


def test_part_of_the_same_version_is_resumed(server: Server, tmp_path: Path) -> None:
    server.files["/list.bin"], server.versions["/list.bin"] = OLD, '"1"'
    leave_a_part(server, tmp_path)
    assert fetch(server, tmp_path) == OLD
    assert server.starts == [0, 1000]
    assert [path.name for path in tmp_path.iterdir()] == ["list.bin"]


def test_part_of_an_older_version_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files["/list.bin"], server.versions["/list.bin"] = OLD, '"1"'
    leave_a_part(server, tmp_path)
    server.files["/list.bin"], server.versions["/list.bin"] = NEW, '"2"'
    assert fetch(server, tmp_path) == NEW


def test_part_of_another_address_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.files |= {"/a/list.bin": OLD, "/b/list.bin": NEW}
    leave_a_part(server, tmp_path, "/a/list.bin")
    assert fetch(server, tmp_path, "/b/list.bin") == NEW


def test_part_of_a_file_with_a_checksum_is_resumed_from_any_address(server: Server, tmp_path: Path) -> None:
    server.files["/mirror/list.bin"] = OLD
    (tmp_path / "list.bin.part").write_bytes(OLD[:500])
    sha256 = hashlib.sha256(OLD).hexdigest()
    assert fetch(server, tmp_path, "/mirror/list.bin", sha256) == OLD
    assert server.starts == [500]
    assert [path.name for path in tmp_path.iterdir()] == ["list.bin"]
