"""Downloads that a later call resumes: the parts of two versions are never joined."""

from __future__ import annotations

import hashlib
from pathlib import Path

from served import Server
from served import server as server  # a fixture
from worldclip.core.download import Client, Download

OLD, NEW = b"a" * 3000, b"b" * 3000


def fetch(server: Server, folder: Path, path: str = "/list.bin", sha256: str | None = None) -> bytes:
    Client(user_agent="worldclip", pause=lambda seconds: None).fetch(
        Download(url=server.url + path, path=folder / "list.bin", sha256=sha256)
    )
    return (folder / "list.bin").read_bytes()


def test_part_of_a_file_without_a_checksum_is_not_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "list.bin.part").write_bytes(OLD[:500])
    server.files["/list.bin"] = NEW
    assert fetch(server, tmp_path) == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["list.bin"]


def test_part_of_a_file_with_a_checksum_is_resumed_from_any_address(server: Server, tmp_path: Path) -> None:
    server.files["/mirror/list.bin"] = OLD
    (tmp_path / "list.bin.part").write_bytes(OLD[:500])
    sha256 = hashlib.sha256(OLD).hexdigest()
    assert fetch(server, tmp_path, "/mirror/list.bin", sha256) == OLD
    assert server.starts == [500]
    assert [path.name for path in tmp_path.iterdir()] == ["list.bin"]
