"""Holding on until jobs end: woken by a signal, or by looking again where none comes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.job import Job
from nexus_jobs.ports import Channel, Ending, Hints, JobStore, Signals
from nexus_jobs.states import State

LOOK_AGAIN_SECONDS = 1.0
"""A signal may be lost, so every waiter reads the rows this often without one."""


class Waiter:
    """One caller's wait for some jobs. It collects what is told of them from its making on."""

    def __init__(self, job_ids: Sequence[str], store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._awaited = set(job_ids)
        self._told: dict[str, Ending | None] = {}
        self._leaving = False
        self._woken = threading.Event()

    def tell(self, job_id: str, ending: Ending | None) -> None:
        """One of the jobs has ended; wakes the caller when that was the last."""
        with self._lock:
            self._told[job_id] = ending if ending and ending.whole else None
            if self._told.keys() >= self._awaited:
                self._woken.set()

    def leave(self) -> None:
        """Wait no longer: the caller gets the jobs as they stand, once they are committed."""
        with self._lock:
            self._leaving = True
            self._woken.set()

    def follow_commit(self, commit: Future[list[Job]], until: float) -> dict[str, Job]:
        """The jobs of a commit that is under way, when all have ended or `until` has come.

        The caller sleeps through the commit and wakes once, for the end, unless there is an
        earlier one: the commit fails, or the cache answers.

        Raises:
            Whatever the commit raises.
        """
        commit.add_done_callback(self._committed)
        self._woken.wait(min(until - time.monotonic(), LOOK_AGAIN_SECONDS))
        return self.follow({job.id: job for job in commit.result()}, until)

    def follow(self, jobs: Mapping[str, Job], until: float) -> dict[str, Job]:
        """The jobs as they stand when all have ended or `until` (monotonic seconds) has come."""
        known = dict(jobs)
        while open_ids := [job_id for job_id, job in known.items() if not job.ended]:
            left = until - time.monotonic()
            if left <= 0 or self._leaving:
                break
            told = self._listen(open_ids, min(left, LOOK_AGAIN_SECONDS))
            news = {i: _ended(known[i], e) for i, e in told.items() if e and _ends(e, known[i])}
            known |= news
            unknown = [job_id for job_id in open_ids if job_id not in news]
            if unknown:
                known |= self._look(unknown)
        return known

    def _look(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """The jobs as stored; none while the database is away, for they were accepted before."""
        try:
            return self._store.get_many(job_ids)
        except StoreUnavailable:
            return {}

    def _listen(self, job_ids: Sequence[str], seconds: float) -> dict[str, Ending | None]:
        """What is told of the jobs until all are, or the time is over."""
        with self._lock:
            self._awaited = set(job_ids)
            if self._leaving or self._told.keys() >= self._awaited:
                self._woken.set()
            else:
                self._woken.clear()
        self._woken.wait(seconds)
        with self._lock:
            told, self._told = self._told, {}
        return told

    def _committed(self, commit: Future[list[Job]]) -> None:
        if commit.exception() or all(job.ended for job in commit.result()):
            self._woken.set()


class EndedWatch:
    """Lets at most `limit` callers at a time wait for jobs to end, until it is closed."""

    def __init__(self, store: JobStore, signals: Signals, *, limit: int) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Waiter]] = defaultdict(list)
        self._places = threading.BoundedSemaphore(limit)
        self._closed = False
        signals.listen(Channel.ENDED, self._heard)

    def close(self) -> None:
        """Let everybody go, as if their time was over; from now on nobody waits."""
        with self._lock:
            self._closed = True
            waiting = {waiter for waiters in self._waiters.values() for waiter in waiters}
        for waiter in waiting:
            waiter.leave()

    @property
    def closed(self) -> bool:
        return self._closed

    def wait(self, job_ids: Sequence[str], seconds: float) -> dict[str, Job]:
        """The jobs as they stand when all have ended or `seconds` are over.

        Does not wait at all when `limit` others do.
        """
        until = time.monotonic() + seconds
        with self.waiter(job_ids) as waiter:
            jobs = self._store.get_many(job_ids)
            return waiter.follow(jobs, until) if waiter else jobs

    @contextmanager
    def waiter(self, job_ids: Sequence[str]) -> Iterator[Waiter | None]:
        """A waiter that hears of these jobs during the block, or None when `limit` others wait."""
        if not self._places.acquire(blocking=False):
            yield None
            return
        waiter = Waiter(job_ids, self._store)
        try:
            self._register(waiter, job_ids)
            yield waiter
        finally:
            self._unregister(waiter, job_ids)
            self._places.release()

    def _heard(self, hints: Hints) -> None:
        for job_id, ending in hints.items():
            # a copy, since callers come and go meanwhile; most jobs have no waiter here
            for waiter in tuple(self._waiters.get(job_id, ())):
                waiter.tell(job_id, ending)

    def _register(self, waiter: Waiter, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                self._waiters[job_id].append(waiter)
            if self._closed:
                waiter.leave()

    def _unregister(self, waiter: Waiter, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                self._waiters[job_id].remove(waiter)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]


def _ends(ending: Ending, job: Job) -> bool:
    """Whether it is surely of this attempt or a later one: a late one may be of before a retry."""
    next_end = job.attempt if job.state is State.RUNNING else job.attempt + 1
    return ending.attempt >= next_end


def _ended(job: Job, ending: Ending) -> Job:
    request = job.request
    if ending.model != request.model:  # its route took another one meanwhile
        request = replace(request, model=ending.model)
    return replace(
        job,
        request=request,
        state=ending.state,
        attempt=ending.attempt,
        started_at=ending.started_at,
        finished_at=ending.finished_at,
        worker=ending.worker,
        result=ending.result,
        error=ending.error,
    )
