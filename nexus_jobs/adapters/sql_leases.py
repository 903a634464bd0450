"""Jobs in SQL: every change of state, each as a conditional statement."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    insert,
    or_,
    select,
    update,
)

from nexus_jobs.adapters.database import Database, now
from nexus_jobs.adapters.sql_rows import (
    JOBS_WITH_RESULTS,
    error_columns,
    job_of,
    job_with_result,
    result_row,
)
from nexus_jobs.adapters.tables import is_state, jobs, results
from nexus_jobs.adapters.transitions import LAPSED, attempt_after, changes, final_event
from nexus_jobs.job import TERMINAL, Event, Job, Lease, Outcome, State, sources, target
from nexus_jobs.ports import Settled


class SqlLeases:
    """The part of JobStore that moves jobs from state to state."""

    _database: Database

    def claim(self, model: str, limit: int, *, worker: str, lease_seconds: float) -> list[Job]:
        # a claim that a power cut undoes leaves the job queued: nothing is lost
        with self._database.write(durable=False) as connection:
            at = now(connection)
            values = {
                "of_model": model,
                "at": at,
                "at_most": limit,
                "token": secrets.token_hex(8),
                "until": at + lease_seconds,
                "by": worker,
            }
            claimed = [job_of(row) for row in connection.execute(_CLAIM, values)]
        return sorted(claimed, key=lambda job: (job.due_at, job.id))

    def finish(self, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
        by_event: dict[Event, list[Outcome]] = defaultdict(list)
        with self._database.write() as connection:
            at = now(connection)
            held = _lock_held(connection, [outcome.lease for outcome in outcomes])
            for outcome in outcomes:
                max_attempts = held.pop(outcome.lease, None)
                if max_attempts is not None:
                    by_event[final_event(outcome, max_attempts)].append(outcome)
            for event, group in by_event.items():
                _record(connection, event, group, at)
        return {
            outcome.lease: Settled(target(event), at)
            for event, group in by_event.items()
            for outcome in group
        }

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> set[Lease]:
        with self._database.write(durable=False) as connection:
            until = now(connection) + lease_seconds
            held = set(_lock_held(connection, leases))
            connection.execute(_EXTEND, {"ids": [lease.job_id for lease in held], "until": until})
        return held

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
            for event, which, error in ((Event.BURY, spent, LAPSED), (Event.REQUEUE, ~spent, None)):
                free = pick(event, lapsed & which, skip_locked=True)
                statement = transition(event, at, jobs.c.id.in_(select(free.c.id)))
                statement = statement.values(**error_columns(error)).returning(jobs.c.id)
                moved |= dict.fromkeys(connection.scalars(statement), target(event))
        return moved

    def expire_overdue(self) -> list[str]:
        with self._database.write() as connection:
            at = now(connection)
            free = pick(Event.EXPIRE, jobs.c.expires_at <= at, skip_locked=True)
            statement = transition(Event.EXPIRE, at, jobs.c.id.in_(select(free.c.id)))
            return list(connection.scalars(statement.returning(jobs.c.id)))


def transition(
    event: Event, at: float | BindParameter[float], which: ColumnElement[bool]
) -> Update:
    """The statement that makes `event` happen to those jobs that it may happen to."""
    return (
        update(jobs)
        .where(which, is_state(sources(event)))
        .values(**changes(event, at), lease_expires_at=None)
    )


def pick(event: Event, which: ColumnElement[bool], *, skip_locked: bool = False) -> CTE:
    """The ids of jobs that `event` may happen to, locked; by id, so that nobody deadlocks."""
    return _locked(
        select(jobs.c.id).where(which, is_state(sources(event))).order_by(jobs.c.id), skip_locked
    )


def _locked(ids: Select[tuple[str]], skip_locked: bool) -> CTE:
    # materialized: PostgreSQL must not run the locking SELECT more than once
    locked = ids.with_for_update(skip_locked=skip_locked).cte("picked")
    return locked.prefix_with("MATERIALIZED", dialect="postgresql")


_next = _locked(
    select(jobs.c.id)
    .where(
        jobs.c.model == bindparam("of_model"),
        is_state(sources(Event.CLAIM)),
        or_(jobs.c.expires_at.is_(None), jobs.c.expires_at > bindparam("at")),
    )
    .order_by(jobs.c.due_at, jobs.c.id)
    .limit(bindparam("at_most")),
    skip_locked=True,
)
_CLAIM = (
    update(jobs)
    .where(jobs.c.id.in_(select(_next.c.id)), is_state(sources(Event.CLAIM)))
    .values(
        state=target(Event.CLAIM),
        attempt=jobs.c.attempt + 1,
        lease_token=bindparam("token"),
        lease_expires_at=bindparam("until"),
        started_at=bindparam("at"),
        worker=bindparam("by"),
    )
    .returning(jobs)
)


_RUNNING = (
    select(jobs.c.id, jobs.c.attempt, jobs.c.lease_token, jobs.c.max_attempts)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)), is_state([State.RUNNING]))
    .order_by(jobs.c.id)
    .with_for_update()
)
_EXTEND = (
    update(jobs)
    .where(jobs.c.id.in_(bindparam("ids", expanding=True)))
    .values(lease_expires_at=bindparam("until"))
)
_FENCE = and_(
    jobs.c.id == bindparam("of_job"),
    jobs.c.attempt == bindparam("of_attempt"),
    jobs.c.lease_token == bindparam("of_lease"),
)
_RECORD = {
    event: transition(event, bindparam("at"), _FENCE)
    for event in (Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE, Event.BURY)
}
_INSERT_RESULTS = insert(results)


def _lock_held(connection: Connection, leases: Sequence[Lease]) -> dict[Lease, int]:
    """Those of the leases that still hold, with `max_attempts`; their rows stay locked."""
    rows = connection.execute(_RUNNING, {"ids": [lease.job_id for lease in leases]})
    held = {
        Lease(job_id, attempt, token): max_attempts for job_id, attempt, token, max_attempts in rows
    }
    return {lease: held[lease] for lease in leases if lease in held}


def _record(connection: Connection, event: Event, outcomes: Sequence[Outcome], at: float) -> None:
    """Write how attempts ended, all in the same way, under leases that are known to hold."""
    errors_shown = target(event) in TERMINAL
    rows = [
        {
            "of_job": outcome.lease.job_id,
            "of_attempt": outcome.lease.attempt,
            "of_lease": outcome.lease.token,
            "at": at,
            "attempt": attempt_after(event, outcome.lease),
            **error_columns(outcome.error if errors_shown else None),
        }
        for outcome in outcomes
    ]
    connection.execute(_RECORD[event], rows)
    computed = [
        result_row(outcome.lease.job_id, outcome.result, outcome.fingerprint, at)
        for outcome in outcomes
        if event is Event.SUCCEED and outcome.result
    ]
    if computed:
        connection.execute(_INSERT_RESULTS, computed)
