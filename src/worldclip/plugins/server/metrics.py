"""Counters of the server, as Prometheus reads them from /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worldclip.core.artifacts import MANIFEST

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

    def watch(self, folder: Path, sizes: Callable[[], Mapping[str, int]]) -> None:
        """Count the rows of an embedded folder whenever the counters are read, by `images` and `texts`."""
        self._registry.register(_Rows(folder, sizes))

    def text(self) -> bytes:
        """Return all counters as Prometheus text."""
        return generate_latest(self._registry)


class _Rows(Collector):
    """The size of the embedded folder that is searched, and when it was written."""

    def __init__(self, folder: Path, sizes: Callable[[], Mapping[str, int]]) -> None:
        self._folder = folder
        self._sizes = sizes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        rows = GaugeMetricFamily("worldclip_embedded_rows", "Pictures and texts that are searched.", labels=["of"])
        for of, size in self._sizes().items():
            rows.add_metric([of], size)
        yield rows
        manifest = self._folder / MANIFEST
        if manifest.exists():  # a folder that is gone is told by /healthz
            seconds = manifest.stat().st_mtime
            yield GaugeMetricFamily(
                "worldclip_embedded_timestamp_seconds", "When the embedded folder was written.", value=seconds
            )
