"""Gives each request of a route a model, by what this process has seen of the models."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from cachetools import TTLCache, cachedmethod

from nexus_jobs import routing, telemetry
from nexus_jobs.errors import NoTarget
from nexus_jobs.fleet import WorkerReport
from nexus_jobs.job import Request
from nexus_jobs.ports import Channel, Clock, FleetStore, Hints, JobStore, Signals
from nexus_jobs.route import Algorithm, Route
from nexus_jobs.routing import Breaker, TargetState, choose, prefix_key
from nexus_jobs.targets import Targets

READING_SECONDS: Final = 1.0
"""How old may be what the database says of workers and backlogs."""
COUNTED_JOBS: Final = 2000
"""A model with more waiting jobs is as good as one with so many."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one model of a route stands, as this process sees it; it was `chosen` so many times."""

    state: TargetState
    breaker: Breaker
    chosen: int


class Router:
    """Chooses, and follows what becomes of the jobs that it has sent."""

    def __init__(
        self,
        *,
        store: JobStore,
        fleet: FleetStore,
        workers: Callable[[], Sequence[WorkerReport]],
        signals: Signals,
        clock: Clock = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._workers = workers
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._targets = Targets()
        self._turns: Counter[str] = Counter()
        self._reading = threading.Condition()
        self._readings: TTLCache[object, object] = TTLCache(64, READING_SECONDS, clock)
        signals.listen(Channel.ENDED, self._heard)

    def choose(
        self, route: Route, request: Request, job_id: str, without: Collection[str] = ()
    ) -> str | None:
        """The model that is to run the job, of those that are not left out; None if all are.

        Raises:
            NoTarget: none can be had, and the route refuses then.
        """
        models = [model for model in route.models if model not in without]
        if not models:
            return None
        state_of = self._states(route)
        with self._lock:
            now = self._clock()
            self._turns[route.name] += 1
            found = choose(
                route,
                {model: state_of(model, now) for model in models},
                now=now,
                turn=self._turns[route.name],
                chance=self._chance(),
                key=prefix_key(request),
            )
            if found is None and route.otherwise == "refuse":
                raise NoTarget(f"no model of route {route.name!r} can be had now; try again later")
            model = found or models[0]
            self._targets.send(route, model, job_id, request.params.max_tokens, now)
        telemetry.route_choices.labels(route.name, model).inc()
        return model

    def withdraw(self, job_ids: Iterable[str]) -> None:
        """These are not going to run after all."""
        with self._lock:
            for job_id in job_ids:
                self._targets.withdraw(job_id)

    def standings(self, route: Route) -> dict[str, Standing]:
        """How each model of the route stands, the targets first."""
        state_of = self._states(route)
        with self._lock:
            now = self._clock()
            states = {model: state_of(model, now) for model in route.models}
            return {
                model: Standing(
                    state,
                    state.health.breaker(route, now),
                    self._targets.chosen[route.name, model],
                )
                for model, state in states.items()
            }

    def _heard(self, hints: Hints) -> None:
        with self._lock:
            now = self._clock()
            for job_id, ending in hints.items():
                self._targets.hear(job_id, ending, now)

    def _states(self, route: Route) -> Callable[[str, float], TargetState]:
        """Tells how a model stands; the database has been read for it."""
        reachable = self._reachable()
        by_backlog = route.algorithm is Algorithm.LEAST_BACKLOG_TOKENS
        waiting = self._waiting(tuple(route.models)) if by_backlog else {}

        def state_of(model: str, now: float) -> TargetState:
            return self._targets.state(
                model, now, reachable=model in reachable, waiting=waiting.get(model, 0)
            )

        return state_of

    @cachedmethod(attrgetter("_readings"), condition=attrgetter("_reading"))
    def _reachable(self) -> frozenset[str]:
        return routing.reachable(self._workers(), self._fleet.registered())

    @cachedmethod(attrgetter("_readings"), condition=attrgetter("_reading"))
    def _waiting(self, models: Sequence[str]) -> Mapping[str, int]:
        return self._store.backlog(models, COUNTED_JOBS)
