"""A worker and a model as they would be after a rebalancing: what is where, and how busy.

A model's *strain* is the mean load of the workers that it is on, so it is over 1 where those
cannot give what is asked; its *exposure* is over 1 where it is on fewer than it should be in case
of a burst. The larger of the two is its *pressure*.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final

from nexus_jobs.fleet import Wanted
from nexus_jobs.placement import Demand, Policy, WorkerLoad

SOON_SECONDS: Final = 10.0
"""A model that gets a job so often has traffic, even if it is quick to load."""
LEAST_NEED: Final = 1e-3
"""A worker's worth; lets models without jobs be compared by their seats."""


class PlannedWorker:
    """A worker with the models that are to be on it."""

    __slots__ = ("id", "load", "models", "places", "reported", "room", "speed", "spread")

    def __init__(self, reported: WorkerLoad) -> None:
        self.id = reported.id
        self.reported = reported
        self.speed = reported.speed
        self.models: dict[str, PlannedModel] = {}
        self.room = reported.memory_mb
        self.places = inf if reported.max_models is None else reported.max_models
        self.load = self.spread = 0.0

    def fits(self, model: PlannedModel) -> bool:
        return model.memory <= self.room and self.places >= 1


class PlannedModel:
    """A model with its needs, in workers' worths, and the workers it is on."""

    __slots__ = (
        "arriving", "backlog", "busy", "cover", "demand", "failed", "floor", "idle", "load",
        "memory", "most", "name", "need", "ready", "slowest", "speed", "waiting", "workers",
    )  # fmt: skip

    def __init__(self, demand: Demand, policy: Policy) -> None:
        self.demand = demand
        self.name = demand.model
        self.memory = demand.memory_mb
        per_job = demand.tokens_per_job / demand.tokens_per_second
        self.backlog = demand.queued * per_job
        """Seconds of one worker."""
        expected = demand.arrival * per_job
        self.arriving = min(
            expected / policy.utilisation, expected + policy.margin * sqrt(expected)
        )
        self.cover = expected + policy.reserve * sqrt(expected)
        """On how many workers, of speed 1, it should be."""
        self.waiting = self.backlog / policy.slo_seconds
        self.need = max(LEAST_NEED, self.arriving + self.waiting)
        wanted = 1 if demand.wanted is Wanted.LOADED else 0
        self.floor = max(wanted, demand.min_replicas, len(demand.pinned))
        soon = demand.arrival * max(demand.load_seconds, SOON_SECONDS) >= 1
        lately = demand.idle_seconds < policy.dwell_seconds
        self.busy = demand.queued > 0 or demand.running > 0 or soon or lately
        """It has jobs or had some lately, or expects some before it could be back, or soon."""
        limit = policy.idle_seconds
        self.idle = not self.busy and limit is not None and demand.idle_seconds >= limit
        self.most = self._most()
        self.workers: list[PlannedWorker] = []
        self.failed: list[PlannedWorker] = []
        """Those that it could not be loaded on; they try again by themselves."""
        self.ready = 0
        self.speed = self.load = 0.0
        self.slowest = 0.0
        """The least speed among its workers."""

    def _most(self) -> float:
        if self.demand.wanted is Wanted.UNLOADED:
            return 0
        if self.idle:
            return self.floor
        return (
            inf if self.demand.max_replicas is None else max(self.demand.max_replicas, self.floor)
        )

    @property
    def strain(self) -> float:
        return self.load / self.speed if self.workers else inf

    @property
    def exposure(self) -> float:
        return self.cover / self.speed if self.workers else inf

    @property
    def pressure(self) -> float:
        return max(self.strain, self.exposure)

    @property
    def lacks_reserve(self) -> bool:
        """Whether it lacks nothing else."""
        enough = self.busy and len(self.workers) >= self.floor
        return enough and self.strain <= 1 < self.exposure

    def relief(self, speed: float) -> float:
        """By how much each of its workers gets less busy if it gets one more of that speed."""
        return self.need / self.speed - self.need / (self.speed + speed) if self.workers else 0.0

    @property
    def least_without(self) -> float:
        """A bound: no loss of a seat on a worker less busy than this leaves less strain."""
        if not self.workers:
            return inf
        return (self.load + self.need * self.slowest / self.speed) / self.speed if self.busy else 0

    @property
    def least_exposure(self) -> float:
        """The exposure that the loss of its slowest seat leaves, the least of all."""
        if not self.busy:
            return 0.0
        return self.cover / (self.speed - self.slowest) if self.speed > self.slowest else inf
