"""Tells where queued jobs stand, from what the stores and the workers say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cachetools import TTLCache, cached

from nexus_jobs.catalog import Catalog
from nexus_jobs.explaining import Surroundings, Wait, explain
from nexus_jobs.fleet import Assignment, RegisteredModel, WorkerReport
from nexus_jobs.job import Job
from nexus_jobs.ports import FleetStore, JobStore, ScheduleStore
from nexus_jobs.router import Router
from nexus_jobs.routing import Breaker

COUNTED_JOBS: Final = 10_000
"""A position is counted up to here."""
FRESH_SECONDS: Final = 1.0
"""How old what is told of models and assignments may be."""


class Standings:
    """What each queued job waits for; threads may share it."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        fleet: FleetStore,
        schedule: ScheduleStore,
        reports: Callable[[], Sequence[WorkerReport]],
        catalog: Catalog,
        router: Router,
    ) -> None:
        self._jobs = jobs
        self._catalog = catalog
        self._router = router
        self._schedule = schedule
        self._reports = reports
        fresh = cached(TTLCache(1, FRESH_SECONDS), lock=threading.Lock())
        self._registry: Callable[[], Mapping[str, RegisteredModel]] = fresh(
            lambda: {known.name: known for known in fleet.registered()}
        )
        fresh = cached(TTLCache(1, FRESH_SECONDS), lock=threading.Lock())
        self._assignments: Callable[[], Sequence[Assignment]] = fresh(schedule.assignments)

    def of(self, job: Job) -> Wait:
        """Why a queued job waits.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        model = job.request.model
        around = Surroundings(
            now=self._schedule.clock(),
            position=self._jobs.position(job, COUNTED_JOBS),
            model=self._registry().get(model),
            reports=self._reports(),
            loading_since={
                one.worker: one.since for one in self._assignments() if one.model == model
            },
            breaker_open=self._breaker_is_open(job),
        )
        return explain(job, around)

    def _breaker_is_open(self, job: Job) -> bool:
        route = self._catalog.routes().get(job.route) if job.route else None
        if route is None:
            return False
        standing = self._router.standings(route).get(job.request.model)
        return standing is not None and standing.breaker is Breaker.OPEN
