"""Tells where queued jobs stand, from what the stores and the workers say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cachetools import TTLCache, cached

from nexus_jobs.explaining import Surroundings, Wait, explain
from nexus_jobs.fleet import Assignment, RegisteredModel, WorkerReport
from nexus_jobs.job import Job
from nexus_jobs.ports import FleetStore, JobStore, ScheduleStore

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
    ) -> None:
        self._jobs = jobs
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
        )
        return explain(job, around)
