"""What `/metrics` shows: the counters of the processes, and gauges read from the database."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import structlog
from prometheus_client import REGISTRY, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.ports import JobStore
from nexus_jobs.states import State

log = structlog.get_logger(__name__)

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client finds the folder where processes add up counters."""


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
        """All processes of this host together where they share a folder, else this one."""
        return generate_latest(_counters()) + generate_latest(self._registry)


def _counters() -> CollectorRegistry:
    if SHARED_FOLDER not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    collector: Any = multiprocess.MultiProcessCollector  # it has no types
    collector(registry)
    return registry
