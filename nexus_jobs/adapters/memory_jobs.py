"""Jobs in memory: for tests, and for trying something out without a database."""

from __future__ import annotations

import heapq
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nexus_jobs.adapters.idempotency import KeptKey, standing_id, standing_ids
from nexus_jobs.adapters.transitions import (
    LAPSED,
    attempt_after,
    changes,
    committed,
    noted,
    replayed,
)
from nexus_jobs.errors import Conflict
from nexus_jobs.job import Bulk, BulkState, Idempotency, Job, Lease, NewJob, Outcome, Result
from nexus_jobs.ports import JobFilter, Settled, ignore
from nexus_jobs.states import Event, State, sources, target


@dataclass(slots=True)
class StoredBulk:
    """A bulk, when its rows last grew, and the ids of its jobs by their place in the input."""

    bulk: Bulk
    touched_at: float
    ending: bool = False
    rows: dict[int, str] = field(default_factory=dict)


class MemoryJobs:
    """JobStore."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._lapses_at: dict[str, float] = {}
        # heaps of (due_at, id) by model; whoever pops skips the jobs that are not queued there now
        self._queues: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
        self._computed: dict[str, tuple[float, Result]] = {}
        self._bulks: dict[str, StoredBulk] = {}
        self._keys: dict[str, tuple[float, KeptKey]] = {}  # with the time at which each runs out

    def add(
        self,
        new_jobs: Sequence[NewJob],
        claimable: Callable[[Sequence[Job]], None] = ignore,
        *,
        durable: bool = True,  # noqa: ARG002 - there is no disk
    ) -> list[Job]:
        with self._lock:
            at = time.time()
            self._check_importing({job.bulk_id for job in new_jobs if job.bulk_id})
            kept = self._kept_keys(new_jobs, at)
            ids = standing_ids(new_jobs, {name: key for name, (_, key) in kept.items()})
            fresh = [job for job, standing in zip(new_jobs, ids, strict=True) if job.id == standing]
            self._check_unique(fresh)
            self._keys |= kept
            for job in (committed(new, at) for new in fresh):
                self._jobs[job.id] = job
                self._enqueue(job)
                if job.bulk_id is not None and job.bulk_index is not None:
                    stored = self._bulks[job.bulk_id]
                    stored.rows[job.bulk_index], stored.touched_at = job.id, at
            jobs = [self._jobs[job_id] for job_id in ids]
            claimable(jobs)
            return jobs

    def flush(self) -> None: ...

    def get(self, job_id: str) -> Job | None:
        with self._lock:
            return self._jobs.get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        with self._lock:
            return {job_id: self._jobs[job_id] for job_id in job_ids if job_id in self._jobs}

    def search(self, which: JobFilter, *, limit: int, before: str | None = None) -> Sequence[Job]:
        with self._lock:
            matching = [
                job
                for job in self._jobs.values()
                if which.state in (None, job.state)
                and which.model in (None, job.request.model)
                and which.route in (None, job.route)
                and which.bulk_id in (None, job.bulk_id)
                and which.shadows is (job.shadow_of is not None)
                and (before is None or job.id < before)
            ]
        return heapq.nlargest(limit, matching, key=lambda job: job.id)

    def claim(
        self,
        model: str,
        limit: int,
        *,
        worker: str,
        lease_seconds: float,
        suspects: bool = False,
    ) -> list[Job]:
        claimed: list[Job] = []
        left: list[Job] = []
        with self._lock:
            at, token, queue = time.time(), secrets.token_hex(8), self._queues[model]
            while queue and len(claimed) < limit:
                job = self._jobs[heapq.heappop(queue)[1]]
                gone = job.state not in sources(Event.CLAIM) or job.request.model != model
                if gone or _overdue(job, at):
                    continue
                if job.suspect is not suspects or _held_back(job, at):
                    left.append(job)
                    continue
                taken = replace(
                    job,
                    state=target(Event.CLAIM),
                    attempt=job.attempt + 1,
                    started_at=at,
                    lease_token=token,
                    worker=worker,
                )
                self._jobs[job.id] = taken
                self._lapses_at[job.id] = at + lease_seconds
                claimed.append(taken)
            for job in left:
                self._enqueue(job)
        return claimed

    def finish(self, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
        moved: dict[Lease, Settled] = {}
        with self._lock:
            at = time.time()
            for outcome in outcomes:
                if self._holds(outcome.lease):
                    job = self._record(outcome, at)
                    moved[outcome.lease] = Settled(job.state, at)
        return moved

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> set[Lease]:
        with self._lock:
            held = {lease for lease in leases if self._holds(lease)}
            self._lapses_at |= {lease.job_id: time.time() + lease_seconds for lease in held}
        return held

    def cancel(self, job_id: str) -> Job | None:
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.state in sources(Event.CANCEL):
                return self._move(job, Event.CANCEL, time.time())
            return job

    def requeue_lapsed(self) -> dict[str, State]:
        moved: dict[str, State] = {}
        with self._lock:
            at = time.time()
            lapsed = [job_id for job_id, until in self._lapses_at.items() if until <= at]
            for job in map(self._jobs.__getitem__, lapsed):
                event = Event.BURY if job.is_last_attempt else Event.REQUEUE
                moved[job.id] = self._move(job, event, at, error=LAPSED, suspect=True).state
        return moved

    def replay(self, draft: NewJob) -> Job | None:
        with self._lock:
            job = self._jobs.get(draft.id)
            if job is None or job.state not in sources(Event.REPLAY):
                return None
            again = self._jobs[job.id] = replayed(job, draft, time.time())
            self._enqueue(again)
        return again

    def reroute(
        self, route: str, model: str, to: str, *, at_most: int, reproducible: bool = False
    ) -> int:
        with self._lock:
            theirs = (
                job
                for job in self._in_state(Event.CLAIM)
                if (job.route, job.request.model) == (route, model)
                and (reproducible or not job.request.reproducible)
            )
            moving = heapq.nsmallest(at_most, theirs, key=lambda job: job.id)
            for job in moving:
                request = replace(job.request, model=to)
                self._jobs[job.id] = replace(job, request=request, fingerprint=None)
                self._enqueue(self._jobs[job.id])
        return len(moving)

    def expire_overdue(self) -> list[str]:
        with self._lock:
            at = time.time()
            overdue = [job for job in self._in_state(Event.EXPIRE) if _overdue(job, at)]
            return [self._move(job, Event.EXPIRE, at).id for job in overdue]

    def find_keyed(self, mine: Idempotency) -> Job | None:
        with self._lock:
            until, known = self._keys.get(mine.key, (0.0, None))
            if known is None or until <= time.time():
                return None
            return self._jobs[standing_id(mine, {mine.key: known})]

    def forget_keys(self) -> int:
        with self._lock:
            at, before = time.time(), len(self._keys)
            self._keys = {name: kept for name, kept in self._keys.items() if kept[0] > at}
            return before - len(self._keys)

    def backlog(self, models: Sequence[str], at_most: int) -> dict[str, int]:
        with self._lock:
            at = time.time()
            ready = Counter(
                job.request.model for job in self._in_state(Event.CLAIM) if not _held_back(job, at)
            )
        return {model: min(ready[model], at_most) for model in models if ready[model]}

    def arrivals(self, seconds: float) -> dict[str, int]:
        with self._lock:
            since = time.time() - seconds
            return dict(
                Counter(
                    job.request.model
                    for job in self._jobs.values()
                    if job.submitted_at >= since and job.bulk_id is None
                )
            )

    def position(self, job: Job, at_most: int) -> int:
        with self._lock:
            queued = self._in_state(Event.CLAIM)
        kind, place = (job.request.model, job.suspect), (job.due_at, job.id)
        rivals = [one for one in queued if (one.request.model, one.suspect) == kind]
        return min(at_most, sum((one.due_at, one.id) < place for one in rivals))

    def counts(self) -> dict[tuple[str, State], int]:
        with self._lock:
            unfinished = (job for job in self._jobs.values() if not job.ended)
            return dict(Counter((job.request.model, job.state) for job in unfinished))

    def find_results(self, fingerprints: Sequence[str], *, max_age: float) -> dict[str, Result]:
        with self._lock:
            since = time.time() - max_age
            known = {name: self._computed[name] for name in fingerprints if name in self._computed}
            return {name: result for name, (at, result) in known.items() if at >= since}

    def _in_state(self, event: Event) -> list[Job]:
        return [job for job in self._jobs.values() if job.state in sources(event)]

    def _holds(self, lease: Lease) -> bool:
        job = self._jobs.get(lease.job_id)
        return job is not None and job.state is State.RUNNING and job.lease == lease

    def _record(self, outcome: Outcome, at: float) -> Job:
        job = self._jobs[outcome.lease.job_id]
        event = outcome.event
        if event is Event.SUCCEED and outcome.result and outcome.fingerprint:
            self._computed[outcome.fingerprint] = at, outcome.result
        return self._move(
            job,
            event,
            at,
            attempt=attempt_after(event, job.attempt),
            result=outcome.result if event is Event.SUCCEED else None,
            **noted(outcome, at),
        )

    def _move(self, job: Job, event: Event, at: float, **fields: Any) -> Job:
        moved = replace(job, **changes(event, at), **fields)
        self._jobs[job.id] = moved
        self._lapses_at.pop(job.id, None)
        self._enqueue(moved)
        return moved

    def _enqueue(self, job: Job) -> None:
        if job.state is State.QUEUED:
            heapq.heappush(self._queues[job.request.model], (job.due_at, job.id))

    def _kept_keys(self, new_jobs: Sequence[NewJob], at: float) -> dict[str, tuple[float, KeptKey]]:
        """All keys of the new jobs; those that are not kept, for the first job that has each."""
        kept: dict[str, tuple[float, KeptKey]] = {}
        for job in new_jobs:
            if (mine := job.idempotency) and mine.key not in kept:
                known = self._keys.get(mine.key)
                new = at + mine.seconds, KeptKey(mine.digest, job.id)
                kept[mine.key] = known if known and known[0] > at else new
        return kept

    def _check_unique(self, new_jobs: Sequence[NewJob]) -> None:
        seen: set[object] = set()
        for job in new_jobs:
            row = (job.bulk_id, job.bulk_index) if job.bulk_id else job.id
            stored = self._bulks.get(job.bulk_id) if job.bulk_id else None
            taken = stored is not None and job.bulk_index in stored.rows
            if job.id in self._jobs or taken or job.id in seen or row in seen:
                raise Conflict(f"job {job.id} or its row of a bulk exists already")
            seen |= {job.id, row}

    def _check_importing(self, bulk_ids: set[str]) -> None:
        for bulk_id in bulk_ids:
            stored = self._bulks.get(bulk_id)
            if stored is None or stored.bulk.state is not BulkState.IMPORTING:
                raise Conflict(f"bulk {bulk_id} is not importing rows any more")


def _held_back(job: Job, at: float) -> bool:
    return job.run_after is not None and job.run_after > at


def _overdue(job: Job, at: float) -> bool:
    return job.expires_at is not None and job.expires_at <= at
