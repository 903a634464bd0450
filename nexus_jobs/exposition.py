"""What `/metrics` shows: this process's counters, and gauges read from the database."""

from __future__ import annotations

import time
from collections.abc import Iterator

import structlog
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.job import State
from nexus_jobs.ports import JobStore

log = structlog.get_logger(__name__)


class _Backlog(Collector):
    """Jobs waiting and running per model, read at most once an `interval` of seconds."""

    def __init__(self, store: JobStore, interval: float) -> None:
        self._store = store
        self._interval = interval
        self._counts: dict[tuple[str, State], int] = {}
        self._read_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._read_at >= self._interval:
            self._read()
        for name, state in (("waiting", State.QUEUED), ("running", State.RUNNING)):
            gauge = GaugeMetricFamily(f"nexus_jobs_{name}", f"Jobs {state}.", labels=["model"])
            for (model, counted), count in self._counts.items():
                if counted is state:
                    gauge.add_metric([model], count)
            yield gauge

    def _read(self) -> None:
        try:
            self._counts = self._store.counts()
        except StoreUnavailable as error:
            log.warning("metrics.stale", reason=str(error))
        self._read_at = time.monotonic()


class Exposition:
    """Renders metrics in Prometheus' text format."""

    def __init__(self, store: JobStore, interval: float) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Backlog(store, interval))

    def exposition(self) -> bytes:
        return generate_latest(REGISTRY) + generate_latest(self._registry)
