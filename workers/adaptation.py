"""Tells a model's controller what happens in its batch, from whichever thread it happens on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy
from nexus_jobs.execution import Row
from nexus_jobs.job import Job, Lease
from nexus_jobs.ports import Clock


class Adaptation:
    """Follows each job from its claim until it leaves; the controller has no lock and no clock.

    How long a job queued is the difference of two times on the database's clock, how long it ran of
    two on the worker's.
    """

    def __init__(self, controller: AdaptiveBatching, clock: Clock) -> None:
        self._controller = controller
        self._clock = clock
        self._lock = threading.Lock()
        self._awaited: dict[Lease, float] = {}
        self._filling: set[Lease] = set()

    def policy(self) -> BatchPolicy:
        """The bounds of the batch for now."""
        with self._lock:
            return self._controller.policy(
                self._clock(), awaited=len(self._awaited), filling=len(self._filling)
            )

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        with self._lock:
            self._controller.stepped(rows, seconds)

    def claimed(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            now = self._clock()
            for job in jobs:
                if job.bulk_id is not None:
                    self._filling.add(job.lease)
                else:
                    self._awaited[job.lease] = now
                    self._controller.claimed(_queued(job))

    def left(self, row: Row, *, succeeded: bool) -> None:
        """The row is no longer in the batch; what it was like counts if it succeeded."""
        with self._lock:
            claimed_at = self._awaited.get(row.job.lease)
            if claimed_at is not None and succeeded:
                now = self._clock()
                self._controller.served(
                    now, queued=_queued(row.job), ran=now - claimed_at, tokens=row.length
                )
        self.gone([row.job])

    def gone(self, jobs: Iterable[Job]) -> None:
        """The jobs are not here any more, whether or not they ever joined the batch."""
        with self._lock:
            for job in jobs:
                self._awaited.pop(job.lease, None)
                self._filling.discard(job.lease)


def _queued(job: Job) -> float:
    return job.started_at - job.submitted_at if job.started_at is not None else 0.0
