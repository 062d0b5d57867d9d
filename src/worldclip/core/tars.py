"""Members of a tar that we write."""

from __future__ import annotations

import io
import tarfile


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file; its time and owner stay 0, so equal members give equal bytes on every machine."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
