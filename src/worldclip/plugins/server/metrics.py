"""Counters of the server, as Prometheus reads them from /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 512, 2048)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("path", "status")
        self.requests = Counter("worldclip_requests", "Requests answered.", labels, registry=self._registry)
        self.seconds = Histogram(
            "worldclip_request_seconds", "Time to answer.", ("path",), buckets=SECONDS, registry=self._registry
        )
        self.batch_items = Histogram(
            "worldclip_batch_items", "Texts and pictures per batch.", buckets=BATCH_SIZES, registry=self._registry
        )
        self.waiting = Gauge("worldclip_waiting_items", "Texts and pictures that wait.", registry=self._registry)

    def text(self) -> bytes:
        """Return all counters as Prometheus text."""
        return generate_latest(self._registry)
