"""Bound what silent clients hold: open connections, and the time in which the head of a request arrives."""

from __future__ import annotations

import asyncio
import time

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 512  # half of the descriptors that a process usually has; pictures and shards need some too
HEAD_SECONDS = 10.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 on at most MAX_CONNECTIONS connections, each with HEAD_SECONDS for the head of a request.

    Where all connections are taken, the one that has been silent for longest makes room for the new one.  One that
    waits for an answer is never closed.
    """

    _heard_at = 0.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or close it where every other one has a request under way."""
        self.transport = transport
        if len(self.connections) >= MAX_CONNECTIONS and not self._close_a_silent_one():
            transport.abort()
            return
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Read what came; the time for a head ends with the head."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_watch()
        super().connection_lost(exc)

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

    def _close_a_silent_one(self) -> bool:
        silent = [other for other in self.connections if isinstance(other, BoundedProtocol) and other._is_silent]
        if not silent:
            return False
        oldest = min(silent, key=lambda other: other._heard_at)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True
