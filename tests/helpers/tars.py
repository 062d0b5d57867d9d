"""Archives that tests write themselves."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from worldclip.core.execute import Shard

PNG = b"\x89PNG\r\n\x1a\nnot decoded here"


Members = Mapping[str, bytes | tarfile.TarInfo] | Iterable[tuple[str, bytes | tarfile.TarInfo]]
"""Names and contents, in order; a TarInfo is a member without contents, such as a link."""


def tar_of(members: Members, mode: str = "w") -> bytes:
    """Return a tar with these members.  mode: of tarfile, `w:gz` for one that is compressed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return file.getvalue()


def zip_of(members: Mapping[str, str | bytes]) -> bytes:
    """Return a zip with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))
    return path


def wat_of(links: Sequence[Mapping[str, str]]) -> bytes:
    """Return a WAT file of one page with these links, as Common Crawl describes it."""
    html = {"HTTP-Response-Metadata": {"HTML-Metadata": {"Links": links}}}
    target = {"WARC-Target-URI": "http://example.org/page"}
    body = as_json({"Envelope": {"Payload-Metadata": html, "WARC-Header-Metadata": target}})
    head = f"WARC/1.0\r\nWARC-Type: metadata\r\nContent-Length: {len(body)}\r\n\r\n"
    return gzip.compress(head.encode() + body + b"\r\n\r\n")


def as_json(record: Any) -> bytes:
    return json.dumps(record).encode()


def sample(stem: str, text: str | None = None, record: Any = None) -> list[tuple[str, bytes]]:
    """Members of one sample as img2dataset orders them."""
    members = [(f"{stem}.jpg", PNG + stem.encode())]
    if record is not None:
        members.append((f"{stem}.json", as_json(record)))
    if text is not None:
        members.append((f"{stem}.txt", text.encode()))
    return members


def shard_of(path: Path, name: str | None = None) -> Shard:
    return Shard(name=name or path.name, path=str(path))
