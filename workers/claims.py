"""The jobs of one model that this worker holds: how they are claimed, and their leases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.job import Job, Lease
from nexus_jobs.ports import JobStore


class Claims:
    """Claims jobs and keeps their leases until they are settled or lost.

    `room` says how many more jobs may be claimed at the moment. The methods may be called from
    any thread.
    """

    def __init__(
        self,
        model: str,
        *,
        worker: str,
        store: JobStore,
        lease_seconds: float,
        room: Callable[[int], int],
    ) -> None:
        self._model = model
        self._worker = worker
        self._store = store
        self._lease_seconds = lease_seconds
        self._room = room
        self._lock = threading.Lock()
        self._leases: set[Lease] = set()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease in self._leases

    def leases(self) -> list[Lease]:
        with self._lock:
            return list(self._leases)

    def settle(self, jobs: Collection[Job]) -> None:
        """These jobs are committed or given up."""
        with self._lock:
            self._leases.difference_update(job.lease for job in jobs)

    def lose(self, lost: Callable[[Lease], bool]) -> set[Lease]:
        """Forget the leases that are lost; which."""
        with self._lock:
            gone = set(filter(lost, self._leases))
            self._leases -= gone
        return gone

    def take(self, limit: int) -> list[Job]:
        """Claim up to `limit` jobs that are not suspects.

        Raises:
            StoreUnavailable: none was claimed.
        """
        return self._claim(limit)

    def take_suspects(self, limit: int) -> tuple[list[Job], list[Job]]:
        """Claim one suspect that has no further attempt, or several that have; and claims to hand
        back at once.

        Those that merely wait here when one of them kills the process lose an attempt as well.

        If the database goes away after the first, that one is all there is.

        Raises:
            StoreUnavailable: none was claimed.
        """
        first = self._claim(1, suspects=True)
        if not first or limit == 1 or first[0].is_last_attempt:
            return first, []
        more: list[Job] = []
        with suppress(StoreUnavailable):
            more = self._claim(limit - 1, suspects=True)
        back = [job for job in more if job.is_last_attempt]
        return [*first, *(job for job in more if not job.is_last_attempt)], back

    def _claim(self, limit: int, *, suspects: bool = False) -> list[Job]:
        limit = min(limit, self._room(len(self._leases)))
        if limit <= 0:
            return []
        jobs = self._store.claim(
            self._model,
            limit,
            worker=self._worker,
            lease_seconds=self._lease_seconds,
            suspects=suspects,
        )
        with self._lock:
            self._leases.update(job.lease for job in jobs)
        return jobs
