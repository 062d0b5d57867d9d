"""A local server that answers as the Hugging Face hub does, for the real client."""

from __future__ import annotations

import base64
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

import fsspec
import pytest
import yaml

API = re.compile(r"/api/(?:model|dataset|space)s/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+)(?:/(.*))?)?)?")
RESOLVE = re.compile(r"/(?:datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.*)")
FILES_OF_NEW = {
    "model": {".gitattributes": b"*.safetensors filter=lfs"},
    "dataset": {".gitattributes": b"*.parquet filter=lfs"},
    "space": {".gitattributes": b"", "README.md": b"---\nsdk: static\n---\n", "index.html": b"", "style.css": b""},
}
Answer = tuple[int, dict[str, str], Any]
"""Status, headers, and the body as JSON."""


@dataclass
class FakeHub:
    """Repositories by name, and what was asked."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """repository -> commit -> file -> contents; the last commit is main."""
    pull_requests: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    """repository -> the files of each pull request."""
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """model, dataset or space, of those that a client created."""
    private: set[str] = field(default_factory=set)
    refusals: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    """repository, or repository/file -> (status, headers) that it answers."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by kind: info, tree, paths-info, resolve, create, preupload, commit, ..."""
    unknown: tuple[int, dict[str, str]] = (401, {"X-Error-Message": "Invalid username or password."})
    """(status, headers) that it answers of a repository that it does not have, as to a client without a token."""
    bytes_sent: int = 0
    num_commits: int = 0
    tokens: set[str] = field(default_factory=set)

    def commit(self, name: str, files: Mapping[str, bytes], card: dict[str, Any] | None = None) -> str:
        """Add a commit to a repository and return its hash.  card: default: the front matter of README.md."""
        commits = self.commits.setdefault(name, {})
        self.num_commits += 1
        commit = hashlib.sha1(f"{name} {self.num_commits}".encode()).hexdigest()
        commits[commit] = dict(files)
        self.cards[name] = front_matter(files) if card is None else card
        return commit

    def files_at(self, name: str, revision: str) -> dict[str, bytes] | None:
        commits = self.commits[name]
        if pull_request := re.fullmatch(r"refs/pr/(\d+)", revision):
            return self.pull_requests[name][int(pull_request[1]) - 1]
        return commits.get(list(commits)[-1] if revision == "main" else revision)

    def main(self, name: str) -> dict[str, bytes]:
        """Return the files of the branch main."""
        files = self.files_at(name, "main")
        assert files is not None
        return files


def front_matter(files: Mapping[str, bytes]) -> dict[str, Any]:
    parts = files.get("README.md", b"").decode().split("---\n")
    return yaml.safe_load(parts[1]) or {} if len(parts) > 2 else {}


def entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "oid": oid, "size": len(content), "path": path}


class Handler(http.server.BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, *message: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.hub
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.add(self.headers.get("Authorization", ""))
        if path in ("/api/repos/create", "/api/validate-yaml"):
            hub.asked[path.rpartition("/")[2]] += 1
            status, headers, record = self.create(json.loads(body)) if path.endswith("create") else (200, {}, {})
            return self.send(status, headers, json.dumps(record).encode())
        api, resolved = API.fullmatch(path), RESOLVE.fullmatch(path)
        if not (api or resolved):
            return self.send(404, {}, b"{}")
        name = (api or resolved)[1]
        kind = (api[2] or "info").replace("revision", "info") if api else "resolve"
        hub.asked[kind] += 1
        refusal = hub.refusals.get(name) or (hub.refusals.get(f"{name}/{unquote(resolved[3])}") if resolved else None)
        if refusal:
            return self.send(*refusal, b'{"error": "refused"}')
        if name not in hub.commits:
            return self.send(*hub.unknown, b"{}")
        if kind == "discussions":
            return self.send(200, {}, json.dumps(self.pull_request(name, api[3])).encode())
        revision = unquote((api[3] or "main") if api else resolved[2])
        files = hub.files_at(name, revision)
        if files is None:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        if resolved:
            commit = next((commit for commit, at in hub.commits[name].items() if at is files), "0" * 40)
            return self.send_file(files, unquote(resolved[3]), commit)
        answers = {
            "info": lambda: self.info(name, files),
            "commits": lambda: self.history(name),
            "tree": lambda: self.tree(files, unquote(api[4] or "")),
            "paths-info": lambda: self.paths_info(files, body),
            "preupload": lambda: self.preupload(files, json.loads(body)),
            "commit": lambda: self.commit(name, revision, files, body),
            "super-squash": lambda: self.squash(name, files),
        }
        status, headers, record = answers[kind]()
        return self.send(status, headers, json.dumps(record).encode())

    do_HEAD = do_POST = do_GET

    def create(self, wanted: dict[str, Any]) -> Answer:
        hub, name = self.hub, f"{wanted['organization']}/{wanted['name']}"
        kind = wanted.get("type", "model")
        prefix = "" if kind == "model" else f"{kind}s/"
        record = {"url": f"{hub.url}/{prefix}{name}"}
        if name in hub.commits:
            return 409, {}, record
        hub.kinds[name] = kind
        if wanted.get("visibility") == "private":
            hub.private.add(name)
        hub.commit(name, FILES_OF_NEW[kind])
        return 200, {}, record

    def info(self, name: str, files: dict[str, bytes]) -> Answer:
        hub = self.hub
        commit = next(commit for commit, at in hub.commits[name].items() if at is files)
        card = hub.cards[name]
        record = {"id": name, "sha": commit, "cardData": card, "siblings": [], "tags": card.get("tags", [])}
        return 200, {}, record | {"private": name in hub.private}

    def history(self, name: str) -> Answer:
        """List the commits, the newest first."""
        about = {"title": "", "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
        return 200, {}, [{"id": commit, **about} for commit in reversed(self.hub.commits[name])]

    def tree(self, files: dict[str, bytes], prefix: str) -> Answer:
        entries = [entry(name, content) for name, content in files.items() if name.startswith(prefix)]
        folders = {name.rpartition("/")[0] for name in files if "/" in name}
        entries += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in sorted(folders)]
        return 200, {}, entries

    def paths_info(self, files: dict[str, bytes], body: bytes) -> Answer:
        asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        return 200, {}, [entry(name, files[name]) for name in asked if name in files]

    def preupload(self, files: dict[str, bytes], wanted: dict[str, Any]) -> Answer:
        """Take all files within the commit; of those that exist, say the hash."""
        oids = {name: entry(name, content)["oid"] for name, content in files.items()}
        paths = [file["path"] for file in wanted["files"]]
        plain = {"uploadMode": "regular", "shouldIgnore": False}
        return 200, {}, {"files": [{"path": path, "oid": oids.get(path), **plain} for path in paths]}

    def commit(self, name: str, revision: str, files: dict[str, bytes], body: bytes) -> Answer:
        """Apply the additions and deletions of a commit, all or none."""
        after = dict(files)
        for operation in map(json.loads, body.splitlines()):
            path = operation["value"].get("path")
            if operation["key"] == "file":
                after[path] = base64.b64decode(operation["value"]["content"])
            elif operation["key"] == "deletedFile":
                if path not in files:
                    return 404, {"X-Error-Code": "EntryNotFound"}, {}
                del after[path]
        if revision == "main":
            oid = self.hub.commit(name, after)
        else:
            self.hub.pull_requests[name][int(revision.rpartition("/")[2]) - 1] = after
            oid = "0" * 40
        return 200, {}, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"}

    def squash(self, name: str, files: dict[str, bytes]) -> Answer:
        """Make one commit of the history."""
        self.hub.commits[name] = {}
        self.hub.commit(name, files)
        return 200, {}, {}

    def pull_request(self, name: str, number: str | None) -> dict[str, Any]:
        """Open a pull request, or describe one."""
        opened = self.hub.pull_requests.setdefault(name, [])
        if number is None:
            opened.append(dict(self.hub.main(name)))
            return {"num": len(opened)}
        return {
            "title": "Export of worldclip",
            "num": int(number),
            "createdAt": "2026-01-01T00:00:00.000Z",
            "status": "draft",
            "repo": {"name": name, "type": self.hub.kinds.get(name, "dataset")},
            "isPullRequest": True,
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
        }

    def send_file(self, files: Mapping[str, bytes], name: str, commit: str) -> None:
        at = {"X-Repo-Commit": commit}
        if name not in files:
            return self.send(404, {"X-Error-Code": "EntryNotFound", **at}, b"{}")
        content = files[name]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        part = content[int(wanted[1]) : int(wanted[2]) + 1] if wanted else content
        self.hub.bytes_sent += len(part)
        return self.send(206 if wanted else 200, {"ETag": entry(name, content)["oid"], **at}, part)

    def send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


UNKNOWN_TO_OWNER = (404, {"X-Error-Code": "RepoNotFound"})  # what the hub answers to a client with a token


@contextmanager
def serve_hub(**settings: Any) -> Iterator[FakeHub]:
    """Serve an empty hub at `url`.  settings: of FakeHub."""
    hub = FakeHub(**settings)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()


@contextmanager
def serve_datasets(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve an empty hub whose datasets hf:// addresses name, to a client with a token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with serve_hub() as served:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": served.url, "token": "hf_of_the_test"})
        yield served


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve_hub(unknown=UNKNOWN_TO_OWNER) as served:
        yield served


def client_of(hub: FakeHub) -> Any:
    """Return the real client."""
    import huggingface_hub

    return huggingface_hub.HfApi(endpoint=hub.url, token="hf_of_the_test")
