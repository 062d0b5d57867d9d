"""A local server that answers as the Hugging Face hub does, for the real client."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.*)")


@dataclass
class FakeHub:
    """Datasets by name, and what was asked."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """dataset -> commit -> file -> contents; the last commit is main."""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """dataset, or dataset/file -> (status, headers) that it answers."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by kind: info, tree, paths-info, resolve."""
    bytes_sent: int = 0
    tokens: set[str] = field(default_factory=set)

    def commit(self, name: str, files: Mapping[str, bytes], card: dict[str, Any] | None = None) -> str:
        """Add a commit to a dataset and return its hash."""
        commits = self.commits.setdefault(name, {})
        commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[commit] = dict(files)
        self.cards[name] = card or {}
        return commit

    def files_at(self, name: str, revision: str) -> dict[str, bytes] | None:
        commits = self.commits[name]
        return commits.get(list(commits)[-1] if revision == "main" else revision)


def entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": path}


class Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *message: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.add(self.headers.get("Authorization", ""))
        api, resolved = REPOSITORY.fullmatch(path), RESOLVE.fullmatch(path)
        name = (api or resolved)[1]
        kind = (api[2] or "info").replace("revision", "info") if api else "resolve"
        hub.asked[kind] += 1
        refusal = hub.refusals.get(name) or (hub.refusals.get(f"{name}/{resolved[3]}") if resolved else None)
        if refusal:
            return self.send(*refusal, b'{"error": "refused"}')
        if name not in hub.commits:
            return self.send(401, {"X-Error-Message": "Invalid username or password."}, b"{}")
        revision = (api[3] or "main") if api else resolved[2]
        files = hub.files_at(name, revision)
        if files is None:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        if resolved:
            return self.send_file(files, resolved[3])
        if kind == "info":
            commit = next(commit for commit, at in hub.commits[name].items() if at is files)
            card = hub.cards[name]
            return self.send(
                200, {}, json.dumps({"id": name, "sha": commit, "cardData": card, "siblings": []}).encode()
            )
        if kind == "tree":
            entries = [entry(name, content) for name, content in files.items() if name.startswith(api[4] or "")]
            folders = {name.rpartition("/")[0] for name in files if "/" in name}
            entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        else:
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            entries = [entry(name, files[name]) for name in asked if name in files]
        return self.send(200, {}, json.dumps(entries).encode())

    def send_file(self, files: Mapping[str, bytes], name: str) -> None:
        if name not in files:
            return self.send(404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        content = files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = content[int(wanted[1]) : int(wanted[2]) + 1] if wanted else content
        self.hub.bytes_sent += len(part)
        return self.send(206 if wanted else 200, {"ETag": entry(name, content)["oid"]}, part)

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Serve an empty hub at `url`."""
    hub = FakeHub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
