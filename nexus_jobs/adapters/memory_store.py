"""The stores in memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from nexus_jobs.adapters.memory_fleet import MemoryFleet
from nexus_jobs.adapters.memory_jobs import MemoryJobs, StoredBulk
from nexus_jobs.adapters.transitions import BULK_SOURCES
from nexus_jobs.errors import Conflict
from nexus_jobs.job import Bulk, BulkProgress, BulkState, Job, NewJob
from nexus_jobs.route import Route
from nexus_jobs.states import Event, State, sources


class MemoryStore(MemoryFleet, MemoryJobs):
    """All stores in one process; nothing outlives it."""

    def __init__(self) -> None:
        super().__init__()
        self._routes: dict[str, Route] = {}

    def close(self) -> None:
        """There is nothing to close; stores on a database have connections."""

    def add_bulk(self, bulk: Bulk) -> Bulk:
        with self._lock:
            if bulk.id in self._bulks:
                raise Conflict(f"bulk {bulk.id} exists already")
            added = replace(bulk, submitted_at=time.time())
            self._bulks[bulk.id] = StoredBulk(added, added.submitted_at)
        return added

    def get_bulk(self, bulk_id: str) -> Bulk | None:
        with self._lock:
            stored = self._bulks.get(bulk_id)
        return stored.bulk if stored else None

    def accept_bulk(self, bulk_id: str) -> Bulk:
        with self._lock:
            if not self._set_state(bulk_id, BulkState.ACCEPTED):
                raise Conflict(f"bulk {bulk_id} is not importing rows any more")
            return self._bulks[bulk_id].bulk

    def cancel_bulk(self, bulk_id: str, to: BulkState = BulkState.CANCELLED) -> bool:
        with self._lock:
            if not self._set_state(bulk_id, to):
                return False
            self._bulks[bulk_id].ending = True
            return True

    def cancel_rows(self, bulk_id: str, *, at_most: int) -> list[str]:
        with self._lock:
            stored = self._bulks.get(bulk_id)
            if stored is None or not stored.ending:
                return []
            at = time.time()
            left = [job for job in self._rows(bulk_id) if job.state in sources(Event.CANCEL)]
            left.sort(key=lambda job: job.state)
            stored.ending = bool(left)
            return [self._move(job, Event.CANCEL, at).id for job in left[:at_most]]

    def ending_bulks(self) -> list[str]:
        with self._lock:
            return [bulk_id for bulk_id, stored in self._bulks.items() if stored.ending]

    def replay_bulk(
        self, bulk_id: str, *, attempts: int, slack_seconds: Sequence[float]
    ) -> Counter[str]:
        with self._lock:
            stored = self._bulks.get(bulk_id)
            if stored is None or stored.bulk.state is not BulkState.ACCEPTED:
                return Counter()
            drafts = [
                NewJob(
                    id=job.id,
                    request=job.request,
                    slack=slack_seconds[job.request.priority],
                    max_attempts=attempts,
                    fingerprint=job.fingerprint,
                    route=job.route,
                )
                for job in self._rows(bulk_id)
                if job.attempt
            ]
            queued = filter(None, map(self.replay, drafts))
            return Counter(job.request.model for job in queued)

    def bulk_progress(self, bulk_id: str, *, window: float = 10.0) -> BulkProgress:
        with self._lock:
            at, rows = time.time(), self._rows(bulk_id)
        starts = [job.started_at for job in rows if job.started_at is not None]
        ends = [job.finished_at for job in rows if job.finished_at is not None]
        recent = [
            job.result
            for job in rows
            if job.result and job.finished_at and job.finished_at >= at - window
        ]
        return BulkProgress(
            counts=dict.fromkeys(State, 0) | Counter(job.state for job in rows),
            now=at,
            window=window,
            recent_rows=len(recent),
            recent_tokens=sum(result.completion_tokens for result in recent),
            first_start=min(starts, default=None),
            last_finish=max(ends, default=None),
        )

    def bulk_rows(self, bulk_id: str, *, chunk: int = 1000) -> Iterator[Job]:
        with self._lock:
            stored = self._bulks.get(bulk_id)
            ids = [stored.rows[index] for index in sorted(stored.rows)] if stored else []
        for start in range(0, len(ids), chunk):
            yield from self.get_many(ids[start : start + chunk]).values()

    def stale_imports(self, timeout: float) -> list[str]:
        with self._lock:
            since = time.time() - timeout
            return [
                bulk_id
                for bulk_id, stored in self._bulks.items()
                if stored.bulk.state is BulkState.IMPORTING and stored.touched_at <= since
            ]

    def routes(self) -> list[Route]:
        with self._lock:
            return [self._routes[name] for name in sorted(self._routes)]

    def put_route(self, route: Route) -> None:
        with self._lock:
            if route.name in self._models:
                raise Conflict(f"{route.name!r} is a model; a route needs another name")
            self._routes[route.name] = route

    def remove_route(self, name: str) -> bool:
        with self._lock:
            return self._routes.pop(name, None) is not None

    def _rows(self, bulk_id: str) -> list[Job]:
        stored = self._bulks.get(bulk_id)
        return [self._jobs[job_id] for job_id in stored.rows.values()] if stored else []

    def _set_state(self, bulk_id: str, to: BulkState) -> bool:
        stored = self._bulks.get(bulk_id)
        if stored is None or stored.bulk.state not in BULK_SOURCES[to]:
            return False
        stored.bulk = replace(stored.bulk, state=to)
        return True
