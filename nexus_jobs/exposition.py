"""What `/metrics` shows: the counters of the processes, and gauges read from the database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Protocol

import structlog
from prometheus_client import REGISTRY, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet import ServedModel
from nexus_jobs.fleet_view import FleetView, status_of
from nexus_jobs.ports import FleetStore, JobStore, ScheduleStore
from nexus_jobs.states import State

log = structlog.get_logger(__name__)

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client finds the folder where processes add up counters."""


class _Store(JobStore, FleetStore, ScheduleStore, Protocol):
    """What the gauges are read from."""


_PER_MODEL: dict[str, tuple[str, Callable[[ServedModel], float]]] = {
    "nexus_slots_used": ("Rows in the batches.", lambda on: on.running),
    "nexus_slots_total": ("Places in the batches.", lambda on: on.slots),
    "nexus_tokens_per_second": (
        "Tokens generated a second.",
        lambda on: on.activity.tokens_per_second,
    ),
    "nexus_model_memory_bytes": (
        "What the engines hold, as far as they tell.",
        lambda on: (on.memory_mb or 0) * 2**20,
    ),
}
"""Gauges that are summed over the workers: what each says, and where it stands in a report."""


class _Fleet(Collector):
    """How each registered model fares, by what the workers last reported."""

    def __init__(self, store: _Store, view: FleetView) -> None:
        self._store = store
        self._view = view

    def collect(self) -> Iterator[Metric]:
        try:
            workers = self._view.workers()
            statuses = {one.name: status_of(one, workers) for one in self._store.registered()}
            recommended = self._store.recommendations()
        except StoreUnavailable as error:
            log.warning("metrics.missing", reason=str(error))
            return
        ready = {name: float(status.ready) for name, status in statuses.items()}
        yield _by_model("nexus_model_ready_workers", "Workers on which it is ready.", ready)
        for name, (text, value) in _PER_MODEL.items():
            sums = {m: sum(map(value, one.by_worker.values())) for m, one in statuses.items()}
            yield _by_model(name, text, sums)
        replicas = {one.model: float(one.replicas) for one in recommended}
        yield _by_model("nexus_recommended_replicas", "Workers that its load asks for.", replicas)


def _by_model(name: str, text: str, values: dict[str, float]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=["model"])
    for model, value in values.items():
        gauge.add_metric([model], value)
    return gauge


class _Backlog(Collector):
    """Jobs waiting and running per model, read at most once an `interval` of seconds.

    Registered models that have none are shown with 0, so that an alert finds them.
    """

    def __init__(self, store: _Store, interval: float) -> None:
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
            models = [one.name for one in self._store.registered()]
            none = dict.fromkeys(product(models, (State.QUEUED, State.RUNNING)), 0)
            self._counts = none | self._store.counts()
        except StoreUnavailable as error:
            log.warning("metrics.stale", reason=str(error))
        self._read_at = time.monotonic()


class Exposition:
    """Renders metrics in Prometheus' text format."""

    def __init__(self, store: _Store, view: FleetView, interval: float) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Backlog(store, interval))
        self._registry.register(_Fleet(store, view))

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
