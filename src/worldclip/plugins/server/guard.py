"""Check the host and the key that every request names, count and log it, and add headers to its answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import time
from datetime import UTC, datetime
from typing import TextIO

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worldclip.plugins.server.batches import CLIENT
from worldclip.plugins.server.errors import ApiError
from worldclip.plugins.server.metrics import Metrics

OPEN_PATHS = ("/", "/healthz")  # without a key, besides /static: the page asks for it
MAX_LOGGED_CHARS = 200  # of a path, which strangers write
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """Count requests, refuse foreign host names and wrong keys, add the headers that keep a page to itself.

    What a handler enters into `request.state.held` ends when the client has read the answer, or is gone.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        api_key: str | None,
        hosts: frozenset[str] | None,
        access_log: TextIO | None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._api_key = api_key
        self._hosts = hosts
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start = time.perf_counter()
        time_of_start = datetime.now(UTC)
        status = 0
        num_bytes = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, num_bytes
            num_bytes += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            elif not message.get("more_body", False):
                await send({**message, "more_body": True})
                message = {"type": message["type"]}  # sent once the client has read nearly all before
            await send(message)

        request = Request(scope)
        client = request.client.host if request.client else ""
        CLIENT.set(client)
        refused = self._refusal(request)
        try:
            with contextlib.ExitStack() as held:
                request.state.held = held
                await (refused.response() if refused else self._app)(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not status:
                stopped = ApiError(503, "the server stops; send the request again later")
                await stopped.response()(scope, receive, send_with_headers)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # the route's pattern: no client can make up counters
            seconds = time.perf_counter() - start
            self._metrics.requests.labels(path, str(status or 500)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            if self._access_log is not None:
                line = {
                    "time": time_of_start.isoformat(timespec="milliseconds"),
                    "client": client,
                    "method": request.method,
                    "path": request.url.path[:MAX_LOGGED_CHARS],  # no query: the page's address holds texts
                    "status": status or 500,
                    "seconds": round(seconds, 4),
                    "bytes": num_bytes,
                }
                with contextlib.suppress(OSError):  # a pipe whose reader ended
                    print(json.dumps(line), file=self._access_log, flush=True)
        return None

    def _refusal(self, request: Request) -> ApiError | None:
        """Return why a request is refused, None for one that is not."""
        host = re.sub(r":\d*$", "", request.headers.get("host", "")).lower()
        if self._hosts is not None and host not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            message = f"the host {host!r} is not this server's; use one of {names}, also as the Host that a proxy sends"
            return ApiError(400, message)
        path = request.url.path
        if self._api_key is None or path in OPEN_PATHS or path.startswith("/static/"):
            return None
        sent = re.sub("^bearer +", "", request.headers.get("authorization", ""), flags=re.IGNORECASE)
        if hmac.compare_digest(sent.encode(), self._api_key.encode()):
            return None
        message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
        return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})
