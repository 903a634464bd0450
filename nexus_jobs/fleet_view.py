"""The fleet as it is this second: what the database knows of the workers, and fresher, Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from typing import Final

from cachetools import TTLCache, cachedmethod

from nexus_jobs.fleet import ModelState, RegisteredModel, ServedModel, Wanted, WorkerReport
from nexus_jobs.ports import Clock, FleetStore, LiveLoads

MAX_AGE: Final = 15.0
"""Seconds after which a worker that has not reported to the database counts as gone."""
KEPT_SECONDS: Final = 1.0
"""A view serves all who ask for so long."""


class Availability(StrEnum):
    """Where a registered model stands, all workers together: the best that any of them says."""

    READY = "ready"
    WARMING = "warming"
    LOADING = "loading"
    DRAINING = "draining"
    FAILED = "failed"
    REGISTERED = "registered"  # no worker has it
    UNLOADED = "unloaded"  # no worker has it, as people want it


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`reason` is why it failed; `engine` that of the worker which `state` is about."""

    state: Availability
    engine: str | None = None
    reason: str | None = None
    by_worker: Mapping[str, ServedModel] = field(default_factory=dict)

    @property
    def ready(self) -> int:
        """On how many workers it is ready."""
        return sum(one.state is ModelState.READY for one in self.by_worker.values())

    @property
    def healthy_at(self) -> float | None:
        """When it last generated something, on whichever worker."""
        times = [one.healthy_at for one in self.by_worker.values() if one.healthy_at is not None]
        return max(times, default=None)


def status_of(model: RegisteredModel, workers: Sequence[WorkerReport]) -> ModelStatus:
    """How the model fares on these workers."""
    served = {one.id: one.models[model.name] for one in workers if model.name in one.models}
    unwanted = model.wanted is Wanted.UNLOADED
    best = min(served.values(), key=_rank, default=None)
    if best is None or (unwanted and best.state is ModelState.FAILED):
        nobody = Availability.UNLOADED if unwanted else Availability.REGISTERED
        return ModelStatus(nobody, by_worker=served)
    return ModelStatus(Availability(best.state), best.engine, best.reason, served)


def _rank(served: ServedModel) -> int:
    return list(Availability).index(Availability(served.state))


class FleetView:
    """The workers that are alive; read once a second at most, however many ask."""

    def __init__(self, store: FleetStore, loads: LiveLoads, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._loads = loads
        self._changed = threading.Condition()
        self._read: TTLCache[str, list[WorkerReport]] = TTLCache(1, KEPT_SECONDS, clock)

    @cachedmethod(
        attrgetter("_read"), key=lambda _self: "workers", condition=attrgetter("_changed")
    )
    def workers(self) -> list[WorkerReport]:
        """The latest report of each, by name.

        Without Redis those of the last heartbeats.

        Raises:
            StoreUnavailable
        """
        stored = {worker.id: worker for worker in self._store.workers(max_age=MAX_AGE)}
        # a live report bears no time of its own, but goes away within seconds
        live = {name: replace(one, seen_at=time.time()) for name, one in self._loads.all().items()}
        return [worker for _, worker in sorted((stored | live).items())]
