"""Bound what silent clients hold: connections, the time for the head of a request, answers that nobody reads."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from worldclip.core.console import say
from worldclip.core.errors import UserError

MAX_CONNECTIONS = 512  # half of the descriptors that a process usually has; pictures and shards need some too
HEAD_SECONDS = 10.0
# The kernel takes 4 MB of an answer at most, and takes more once a third of it is read: 25 kB/s are enough
READ_SECONDS = 60.0
STOP_SECONDS = 6  # from the signal on, for running requests; later they are cancelled
GONE_SECONDS = 7.5  # from the signal on; the kernel then ends the process, which takes 3 s under a load of 20
LAST_TURNS = 4  # turns of the event loop that read requests sent before the signal
TURN_SECONDS = 0.05
CLOSE_HEADER = (b"connection", b"close")
BACKLOG = 128  # connections accepted in one go; asyncio accepts as many before it looks at the first

Result = TypeVar("Result")


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on at most MAX_CONNECTIONS connections, each with HEAD_SECONDS for the head of a request.

    Where all connections are taken, the one that has been silent for longest makes room for the new one.  One that
    waits for an answer is never closed; one that reads none of its answer for READ_SECONDS is.
    """

    _heard_at = 0.0
    _deadline: asyncio.TimerHandle | None = None
    _num_unsent = 0
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it where every other one has a request under way."""
        self.transport = transport
        if len(self.connections) >= MAX_CONNECTIONS:
            silent = [other for other in self.connections if isinstance(other, BoundedProtocol) and other._is_silent]
            if not silent:
                transport.abort()
                return
            oldest = min(silent, key=lambda other: other._heard_at)
            self.connections.discard(oldest)
            oldest.transport.abort()
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Read what came; the time for a head ends with the head."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_watch()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the client has read most of what is written."""
        super().pause_writing()
        self._watch_reading()

    def on_response_complete(self) -> None:
        """Go on with the next request; the rest of the answer may still wait for the client."""
        super().on_response_complete()
        self._watch_reading()

    @property
    def _is_silent(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch_head(self) -> None:
        self._heard_at = time.monotonic()
        if not self._is_silent:
            self._end_watch()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_if_silent)

    def _end_watch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_silent(self) -> None:
        self._deadline = None
        if self._is_silent:
            self.transport.abort()

    def _watch_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        self._num_unsent = self.transport.get_write_buffer_size()
        if self._num_unsent > 0:
            self._reading = self.loop.call_later(READ_SECONDS, self._close_if_unread)

    def _close_if_unread(self) -> None:
        if self.transport.get_write_buffer_size() < self._num_unsent:
            self._watch_reading()
        else:
            self.transport.abort()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of the work for a request whose body is read; cancel it where the client hangs up before.

    Raises ClientDisconnect then.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(leaving, working, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def server_config(app: Starlette) -> uvicorn.Config:
    """Return the settings of the HTTP server: its bounds on connections, and on the time that stopping takes."""
    return uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own closes the handlers of every other library
        log_level="warning",
        access_log=False,
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class Server(uvicorn.Server):
    """A server that ends as any command does: uvicorn's own notes signals to raise them again, which kills the process.

    It answers what was sent before the signal: uvicorn's own resets connections that wait to be accepted or read.
    """

    num_unanswered = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop, after a second Ctrl-C at once; GONE_SECONDS later SIGALRM ends what still runs or hangs."""
        if not self.should_exit:
            signal.setitimer(signal.ITIMER_REAL, GONE_SECONDS)
        self.force_exit |= self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Read what was sent, say in each answer that its connection ends, then stop; count what got no answer."""
        stops_at = time.monotonic() + STOP_SECONDS
        self.lifespan.state["is_stopping"] = True  # seen by later requests
        answers = [self.server_state.default_headers]
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle:
                answers.append(cycle.default_headers)
        for headers in answers:
            if CLOSE_HEADER not in headers:
                headers.append(CLOSE_HEADER)
        for _ in range(LAST_TURNS):  # one turn accepts a connection, another one takes it over, a third one reads
            await asyncio.sleep(TURN_SECONDS)
        self.config.timeout_graceful_shutdown = max(0, round(stops_at - time.monotonic()))
        running = list(self.server_state.tasks)
        await super().shutdown(sockets)
        late = sum(not task.done() or task.cancelling() > 0 for task in running)
        self.num_unanswered = late
        say("serve", f"stopped; not answered: {late}" if late else "stopped; the requests under way were answered")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that holds the address, before the model is loaded.  Raises UserError where that fails."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from error
    # Accepted sockets inherit the option.  asyncio sets it only where the protocol number is IPPROTO_TCP, and that of
    # create_server is 0.  Without it an answer's body waits 40 ms for the client to acknowledge the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
