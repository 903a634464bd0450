"""Jobs in SQL: every change of state, each as a conditional statement."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import (
    and_,
    bindparam,
    or_,
    select,
    update,
)

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.prepared import Prepared
from nexus_jobs.adapters.sql_endings import record
from nexus_jobs.adapters.sql_rows import (
    JOBS_WITH_RESULTS,
    error_columns,
    job_of,
    job_row,
    job_with_result,
    may_run,
)
from nexus_jobs.adapters.sql_transitions import locked, pick, transition
from nexus_jobs.adapters.tables import is_state, jobs
from nexus_jobs.adapters.transitions import LAPSED, replayed
from nexus_jobs.job import Job, Lease, NewJob, Outcome
from nexus_jobs.ports import Settled
from nexus_jobs.states import Event, State, sources, target


class SqlLeases:
    """The part of JobStore that moves jobs from state to state."""

    _database: Database

    def claim(
        self,
        model: str,
        limit: int,
        *,
        worker: str,
        lease_seconds: float,
        suspects: bool = False,
    ) -> list[Job]:
        # a claim that a power cut undoes leaves the job queued: nothing is lost
        values = {
            "of_model": model,
            "suspects": suspects,
            "at_most": limit,
            "token": secrets.token_hex(8),
            "lease_seconds": lease_seconds,
            "by": worker,
        }
        with self._database.write_once(durable=False) as connection:
            claimed = [job_of(row) for row in _CLAIM.fetch(connection, values)]
        return sorted(claimed, key=lambda job: (job.due_at, job.id))

    def finish(self, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
        # of several outcomes of one lease the first counts
        first = {outcome.lease: outcome for outcome in reversed(outcomes)}
        return record(self._database, list(first.values()))

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> set[Lease]:
        values = {
            "ids": [lease.job_id for lease in leases],
            "tokens": list({lease.token for lease in leases}),
            "lease_seconds": lease_seconds,
        }
        with self._database.write_once(durable=False) as connection:
            held = {Lease(*row) for row in connection.execute(_EXTEND, values)}
        if not held.issuperset(leases):  # lost, or only passed over: then they run
            with self._database.read() as connection:
                held |= {Lease(*row) for row in connection.execute(_STILL_RUNNING, values)}
        return held.intersection(leases)

    def cancel(self, job_id: str) -> Job | None:
        with self._database.write() as connection:
            statement = transition(Event.CANCEL, now(connection), jobs.c.id == job_id)
            connection.execute(statement)
            row = connection.execute(JOBS_WITH_RESULTS.where(jobs.c.id == job_id)).first()
        return None if row is None else job_with_result(row)

    def requeue_lapsed(self) -> dict[str, State]:
        spent = jobs.c.attempt >= jobs.c.max_attempts
        moved: dict[str, State] = {}
        with self._database.write() as connection:
            at = now(connection)
            lapsed = jobs.c.lease_expires_at <= at
            for event, which in ((Event.BURY, spent), (Event.REQUEUE, ~spent)):
                free = pick(event, lapsed & which, skip_locked=True)
                statement = transition(event, at, jobs.c.id.in_(select(free.c.id)))
                statement = statement.values(suspect=True, **error_columns(LAPSED))
                ids = connection.scalars(statement.returning(jobs.c.id))
                moved |= dict.fromkeys(ids, target(event))
        return moved

    def replay(self, draft: NewJob) -> Job | None:
        with self._database.write() as connection:
            at = now(connection)
            row = connection.execute(_ENDED_BADLY, {"of_job": draft.id}).first()
            if row is None:
                return None
            again = replayed(job_of(row), draft, at)
            values = {name: job_row(again)[name] for name in _REPLAYED}
            connection.execute(_REPLAY, {"of_job": draft.id, "at": at, **values})
        return again

    def expire_overdue(self) -> list[str]:
        with self._database.write() as connection:
            at = now(connection)
            free = pick(Event.EXPIRE, jobs.c.expires_at <= at, skip_locked=True)
            statement = transition(Event.EXPIRE, at, jobs.c.id.in_(select(free.c.id)))
            return list(connection.scalars(statement.returning(jobs.c.id)))


_lease_end = database_now() + bindparam("lease_seconds")
_next = locked(
    select(jobs.c.id)
    .where(
        jobs.c.model == bindparam("of_model"),
        is_state(sources(Event.CLAIM)),
        jobs.c.suspect == bindparam("suspects"),
        may_run(),
        or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > database_now()),
    )
    .order_by(jobs.c.due_at, jobs.c.id)
    .limit(bindparam("at_most")),
    skip_locked=True,
)
_CLAIM = Prepared(
    update(jobs)
    .where(jobs.c.id.in_(select(_next.c.id)), is_state(sources(Event.CLAIM)))
    .values(
        state=target(Event.CLAIM),
        attempt=jobs.c.attempt + 1,
        lease_token=bindparam("token"),
        lease_expires_at=_lease_end,
        started_at=database_now(),
        worker=bindparam("by"),
    )
    .returning(jobs)
)
_leased = and_(
    jobs.c.id.in_(bindparam("ids", expanding=True)),
    jobs.c.lease_token.in_(bindparam("tokens", expanding=True)),
    is_state([State.RUNNING]),
)
# whoever keeps one row locked for long must not cost the others their leases
_kept = locked(select(jobs.c.id).where(_leased).order_by(jobs.c.id), skip_locked=True)
_STILL_RUNNING = select(jobs.c.id, jobs.c.attempt, jobs.c.lease_token).where(_leased)
_EXTEND = (
    update(jobs)
    .where(jobs.c.id.in_(select(_kept.c.id)), is_state([State.RUNNING]))
    .values(lease_expires_at=_lease_end)
    .returning(jobs.c.id, jobs.c.attempt, jobs.c.lease_token)
)
_ENDED_BADLY = (
    select(jobs)
    .where(jobs.c.id == bindparam("of_job"), is_state(sources(Event.REPLAY)))
    .with_for_update()
)
_REPLAY = transition(Event.REPLAY, bindparam("at"), jobs.c.id == bindparam("of_job"))
_REPLAYED = (
    *("model", "prompt", "messages", "params", "priority", "metadata", "use_cache"),
    *("reproducible", "route", "fingerprint", "max_attempts"),
    *("due_at", "expires_in", "expires_at", "run_after"),
)
