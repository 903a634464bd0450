"""What the API does with jobs."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final

from nexus_jobs import telemetry
from nexus_jobs.committing import Committer
from nexus_jobs.errors import Conflict, InvalidRequest, NoTarget, NotFound, StoreUnavailable
from nexus_jobs.intake import Intake, idempotency
from nexus_jobs.job import Job, NewJob, Request
from nexus_jobs.ports import Channel, JobFilter, JobStore, Signals
from nexus_jobs.states import Event, State, sources
from nexus_jobs.submission import Changes
from nexus_jobs.waiting import EndedWatch

SOON: Final = 1.0
"""Seconds within which a job that somebody waits for may end before it waits for the disk alone."""


class JobService:
    """Submit, look at, wait for, cancel and retry jobs."""

    def __init__(
        self,
        *,
        intake: Intake,
        committer: Committer,
        store: JobStore,
        signals: Signals,
        watch: EndedWatch,
    ) -> None:
        self._intake = intake
        self._committer = committer
        self._store = store
        self._signals = signals
        self._watch = watch

    def submit(self, requests: Sequence[Request]) -> list[Job]:
        """Accept the requests, all or none; when this returns they are on disk.

        Raises:
            InvalidRequest: one of them can never run.
            StoreUnavailable: the database did not answer; try again.
        """
        return self._accept(self._intake.drafts(requests)).result()

    def submit_once(self, request: Request, key: str, seconds: float = 0.0) -> tuple[Job, bool]:
        """Accept the request, unless the same one was accepted before under this key.

        Returns the job when it has ended or `seconds` are over, and whether it is the earlier one.

        Raises:
            InvalidRequest: it can never run, or the key stands for another request.
            StoreUnavailable: try again, with the same key; it may have been accepted.
        """
        until = time.monotonic() + seconds
        job, repeated = self._accept_once(request, key)
        left = until - time.monotonic()
        if left > 0 and not job.ended:
            (job,) = self.wait([job.id], left)
        return job, repeated

    def _accept_once(self, request: Request, key: str) -> tuple[Job, bool]:
        try:
            draft = self._intake.draft(request, key)
        except (InvalidRequest, NoTarget):
            # the key keeps its promise, whatever has become of the model since
            job = self._store.find_keyed(idempotency(request, key))
            if job is None:
                raise
            return job, True
        (job,) = self._accept([draft]).result()
        return job, job.id != draft.id

    def generate(self, request: Request, seconds: float) -> Job:
        """Accept the request; the job when it has ended or `seconds` are over.

        What ends within `SOON` may be on the disk only with its end; the rest is there before.

        Raises:
            InvalidRequest: it can never run.
            StoreUnavailable: the database did not answer; the job may have been accepted.
        """
        started = time.monotonic()
        until, soon = started + seconds, started + SOON
        draft = self._intake.draft(request)
        with self._watch.waiter([draft.id]) as waiter:
            commit = self._accept([draft], durable=waiter is None or until <= soon)
            if waiter is None:
                return commit.result()[0]
            job = waiter.follow_commit(commit, min(until, soon))[draft.id]
            if job.ended or until <= soon:
                return job
            return waiter.follow({job.id: self._on_disk(job)}, until)[job.id]

    def _on_disk(self, job: Job) -> Job:
        """A job that has been committed, once it is on the disk.

        Raises:
            StoreUnavailable: it is not, or has been lost since in a crash of the database.
        """
        self._committer.flush().result()
        kept = self._store.get(job.id)
        if kept is None:
            raise StoreUnavailable("the database has lost the job; submit it again")
        return kept

    def _accept(self, drafts: Sequence[NewJob], *, durable: bool = True) -> Future[list[Job]]:
        commit = self._committer.submit(drafts, durable=durable)
        if any(draft.route for draft in drafts):
            new = {draft.id for draft in drafts}
            commit.add_done_callback(partial(self._shadow, new))
        return commit

    def _shadow(self, new: Collection[str], commit: Future[list[Job]]) -> None:
        """Commit copies of the new jobs that have to run, for the shadows of their routes.

        Nobody waits for that, and what goes wrong with it is nobody's concern.
        """
        if commit.exception() is None:
            waiting = [job for job in commit.result() if job.id in new and not job.ended]
            if copies := list(filter(None, map(self._intake.shadow, waiting))):
                self._committer.submit(copies)

    def get(self, job_id: str) -> Job:
        """The job as it stands.

        Raises:
            NotFound: there is no such job.
        """
        job = self._store.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        return job

    def wait(self, job_ids: Sequence[str], seconds: float) -> list[Job]:
        """The jobs when all have ended or `seconds` are over, in the order of the ids.

        Raises:
            NotFound: one of them does not exist.
        """
        jobs = self._watch.wait(job_ids, seconds)
        missing = next((job_id for job_id in job_ids if job_id not in jobs), None)
        if missing is not None:
            raise NotFound(f"there is no job {missing!r}")
        return [jobs[job_id] for job_id in job_ids]

    def retry(self, job_id: str, changes: Changes) -> Job:
        """Queue a failed or dead job again, with these changes, for as many attempts as a new one.

        Raises:
            NotFound: there is no such job.
            InvalidRequest: with these changes it can never run.
            Conflict: it has not failed, or never ran.
        """
        job = self.get(job_id)
        if job.state in sources(Event.REPLAY):
            if job.attempt == 0:  # a row that was refused as it came in
                raise Conflict(
                    f"job {job_id} could never run, and so what was asked of it is not kept; "
                    "submit it anew as it should be"
                )
            draft = self._intake.redraft(job, changes)
            again = self._store.replay(draft)
            if again is not None:
                self._committer.ring({again.request.model: 1})
                return again
            job = self.get(job_id)
        raise Conflict(f"job {job_id} is {job.state}; only a failed or dead job can be retried")

    def search(self, which: JobFilter, *, limit: int, before: str | None = None) -> Sequence[Job]:
        """Up to `limit` jobs, newest first, older than the id `before`."""
        return self._store.search(which, limit=limit, before=before)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not ended; cancelling it twice is no error.

        Raises:
            NotFound: there is no such job.
            Conflict: it ended before.
        """
        before = self.get(job_id)
        job = self._store.cancel(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id!r}")
        if not before.ended and job.state is State.CANCELLED:
            telemetry.jobs_ended.labels(job.request.model, job.state).inc()
        if job.state is not State.CANCELLED:
            raise Conflict(f"job {job_id} has ended before; its state is {job.state}")
        for channel in Channel:
            self._signals.send(channel, {job_id: None})
        return job
