"""Local HTTP servers, for downloads: of made-up files with faults, and of a folder as it is."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Server:
    """Serve files by path.

    cut: {path: bytes} after which the next response breaks off.  busy: {path: number of responses 503}.  faults: {path:
    what goes wrong with its next requests}: a status code, `break` after a third, `short` (half of it, under that
    length), `wrong` bytes, `stall` until is_open is set.  requests: (path, Range header) of each request.  starts: of
    the ranges sent.  at_once: requests under way, at each new one.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.faults: dict[str, list[str]] = {}
        self.retry_after: str | None = None
        self.knows_ranges = True
        self.is_open = threading.Event()
        self.requests: list[tuple[str, str | None]] = []
        self.starts: list[int] = []
        self.agents: set[str] = set()
        self.at_once: list[int] = []
        self._lock, self._under_way = threading.Lock(), 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments) -> None: ...

            def do_GET(self) -> None:
                with outer._lock:
                    outer._under_way += 1
                    outer.at_once.append(outer._under_way)
                outer.answer(self)
                with outer._lock:
                    outer._under_way -= 1

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def count(self, path: str) -> int:
        """Return the number of requests for a path."""
        return sum(asked == path for asked, _ in self.requests)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path.partition("?")[0], handler.headers["Range"]
        self.requests.append((path, wanted))
        self.agents.add(handler.headers["User-Agent"])
        fault = self.faults[path].pop(0) if self.faults.get(path) else ""
        if self.busy.get(path, 0):
            self.busy[path] -= 1
            fault = "503"
        if fault.isdigit():
            handler.send_response(int(fault))
            if self.retry_after is not None:
                handler.send_header("Retry-After", self.retry_after)
            return handler.end_headers()
        if path not in self.files:
            return handler.send_error(404)
        whole = self.files[path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.knows_ranges else 0
        if wanted and start >= len(whole):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(whole)}")
            return handler.end_headers()
        if fault == "stall":
            self.is_open.wait()
            return None
        self.starts.append(start)
        body = whole[start:]
        body = {"short": body[: len(body) // 2], "wrong": bytes(len(body))}.get(fault, body)
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 3 if fault == "break" else self.cut.pop(path, len(body))])
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with running(server.http):
        yield server
        server.is_open.set()


@contextmanager
def running(server: http.server.HTTPServer) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, keeps: tuple[str, ...], **options) -> None:
        self.keeps = keeps
        super().__init__(*arguments, **options)

    def log_message(self, *arguments) -> None: ...

    def end_headers(self) -> None:
        is_kept = self.path.split("?")[0].endswith(self.keeps)
        self.send_header("Cache-Control", "max-age=3600" if is_kept else "no-cache")
        super().end_headers()


@contextmanager
def static_host(folder: Path, keeps: tuple[str, ...] = ()) -> Iterator[str]:
    """Serve the files of a folder; yields the address.  keeps: suffixes of files that browsers may keep for an hour."""
    handler = functools.partial(_Quiet, directory=str(folder), keeps=keeps)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"
