"""A local HTTP server of made-up files, for downloads."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest


class Server:
    """Serve files by path.

    cut: {path: bytes} after which the next response breaks off.  busy: {path: number of responses 503}.  requests:
    (path, Range header) of each request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.busy: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments) -> None: ...

            def do_GET(self) -> None:
                outer.answer(self)

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path.partition("?")[0], handler.headers["Range"]
        self.requests.append((path, wanted))
        if self.busy.get(path, 0):
            self.busy[path] -= 1
            return handler.send_error(503)
        if path not in self.files:
            return handler.send_error(404)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        body = self.files[path][start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cut.pop(path, len(body))])
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()
