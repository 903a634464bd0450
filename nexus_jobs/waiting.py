"""Holding on until jobs end: woken by a signal, or by looking again where none comes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence

from nexus_jobs.job import Job
from nexus_jobs.ports import Channel, JobStore, Signals

LOOK_AGAIN_SECONDS = 1.0
"""A signal may be lost, so every waiter reads the rows this often without one."""


class _Waiter:
    def __init__(self, job_ids: Sequence[str]) -> None:
        self.pending = set(job_ids)
        self.woken = threading.Event()


class EndedWatch:
    """Lets at most `limit` callers at a time wait for jobs to end."""

    def __init__(self, store: JobStore, signals: Signals, *, limit: int) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiters: dict[str, set[_Waiter]] = defaultdict(set)
        self._places = threading.BoundedSemaphore(limit)
        signals.listen(Channel.ENDED, self._heard)

    def wait(self, job_ids: Sequence[str], seconds: float) -> dict[str, Job]:
        """The jobs as they stand when all have ended or `seconds` are over.

        Does not wait at all when `limit` others do.
        """
        if seconds <= 0 or not self._places.acquire(blocking=False):
            return self._store.get_many(job_ids)
        waiter = _Waiter(job_ids)
        try:
            self._register(waiter, job_ids)
            return self._watch(waiter, job_ids, time.monotonic() + seconds)
        finally:
            self._unregister(waiter, job_ids)
            self._places.release()

    def _watch(self, waiter: _Waiter, job_ids: Sequence[str], until: float) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        open_ids = list(job_ids)
        while True:
            jobs.update(self._store.get_many(open_ids))
            open_ids = [i for i in open_ids if i in jobs and not jobs[i].ended]
            left = until - time.monotonic()
            if not open_ids or left <= 0:
                return jobs
            self._await_only(waiter, open_ids)
            if waiter.woken.wait(min(left, LOOK_AGAIN_SECONDS)):
                waiter.woken.clear()

    def _await_only(self, waiter: _Waiter, open_ids: Sequence[str]) -> None:
        """Forget the jobs whose signal came before the waiter listened."""
        with self._lock:
            waiter.pending.intersection_update(open_ids)
            if not waiter.pending:
                waiter.woken.set()

    def _heard(self, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                for waiter in self._waiters.get(job_id, ()):
                    waiter.pending.discard(job_id)
                    if not waiter.pending:
                        waiter.woken.set()

    def _register(self, waiter: _Waiter, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                self._waiters[job_id].add(waiter)

    def _unregister(self, waiter: _Waiter, job_ids: Sequence[str]) -> None:
        with self._lock:
            for job_id in job_ids:
                self._waiters[job_id].discard(waiter)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]
