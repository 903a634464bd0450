"""How attempts end, in SQL: new states and results, each under a lease that still holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, select

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.prepared import Prepared
from nexus_jobs.adapters.row_insert import recordset
from nexus_jobs.adapters.sql_rows import RESULTS, error_columns, result_row
from nexus_jobs.adapters.sql_transitions import locked, transition
from nexus_jobs.adapters.tables import is_state, jobs, results
from nexus_jobs.adapters.transitions import attempt_after, noted
from nexus_jobs.job import Lease, Outcome
from nexus_jobs.ports import Settled
from nexus_jobs.states import Event, State, target

_IDS = jobs.c.id.in_(bindparam("ids", expanding=True))
_RUNNING = (
    select(database_now().label("at"), jobs.c.id, jobs.c.attempt, jobs.c.lease_token)
    .where(_IDS, is_state([State.RUNNING]))
    .order_by(jobs.c.id)
    .with_for_update()
)
_RECORD = {
    event: transition(event, bindparam("at"), _IDS).values(
        attempt=attempt_after(event, jobs.c.attempt)
    )
    for event in (Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE, Event.BURY)
}

_SUCCEEDED = {"run_after": None, "suspect": False, **error_columns(None)}
_SUCCEED_ONE = Prepared(
    transition(
        Event.SUCCEED,
        bindparam("at"),
        and_(
            jobs.c.id == bindparam("of_job"),
            jobs.c.attempt == bindparam("of_attempt"),
            jobs.c.lease_token == bindparam("of_token"),
        ),
    ).values(_SUCCEEDED)
)

_given = recordset([*results.columns, jobs.c.attempt, jobs.c.lease_token])
_held = locked(
    select(*(_given.c[column.name] for column in results.columns if column.name != "created_at"))
    .join(
        jobs,
        and_(
            jobs.c.id == _given.c.job_id,
            jobs.c.attempt == _given.c.attempt,
            jobs.c.lease_token == _given.c.lease_token,
            is_state([State.RUNNING]),
        ),
    )
    .order_by(jobs.c.id)
)
_ended = (
    transition(Event.SUCCEED, database_now(), jobs.c.id.in_(select(_held.c.job_id)))
    .values(_SUCCEEDED)
    .returning(jobs.c.id)
    .cte("ended")
)
_SUCCEED = Prepared(
    insert(results)
    .from_select(
        [*_held.c.keys(), "created_at"],
        select(*_held.c, database_now()).join(_ended, _ended.c.id == _held.c.job_id),
    )
    .returning(results.c.job_id, results.c.created_at)
)
"""For PostgreSQL, where one statement may write to two tables."""


def record(database: Database, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
    """Commit the outcomes whose leases still hold; no two are of one lease.

    Nearly always they are successes under leases that hold, for which there is a shorter way.
    """
    if not outcomes:
        return {}
    succeeded = {each.lease.job_id for each in outcomes if each.event is Event.SUCCEED}
    settled = _record_successes(database, outcomes) if len(succeeded) == len(outcomes) else None
    return _record_any(database, outcomes) if settled is None else settled


def _record_any(database: Database, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
    """Record ends of every kind, those whose leases hold."""
    with database.write() as connection:
        at, held = _lock_held(connection, [outcome.lease for outcome in outcomes])
        kept = [outcome for outcome in outcomes if outcome.lease in held]
        _note(connection, kept, at)
        computed = [_result_row(each, at) for each in kept if each.event is Event.SUCCEED]
        if computed:
            RESULTS.execute(connection, computed)
    return {outcome.lease: Settled(target(outcome.event), at) for outcome in kept}


def _lock_held(connection: Connection, leases: Sequence[Lease]) -> tuple[float, set[Lease]]:
    """The time, and those of the leases that still hold; their rows stay locked."""
    rows = connection.execute(_RUNNING, {"ids": [lease.job_id for lease in leases]}).all()
    held = {Lease(row.id, row.attempt, row.lease_token) for row in rows}
    return rows[0].at if rows else 0.0, held.intersection(leases)


def _note(connection: Connection, outcomes: Sequence[Outcome], at: float) -> None:
    """Write how attempts ended, under leases that are known to hold; equal ends together."""
    ends: dict[tuple[Event, tuple[tuple[str, Any], ...]], list[str]] = defaultdict(list)
    for outcome in outcomes:
        ends[outcome.event, tuple(noted(outcome, at).items())].append(outcome.lease.job_id)
    for (event, fields), ids in ends.items():
        values = {"ids": ids, "at": at, **dict(fields)}
        if "error" in values:
            values |= error_columns(values.pop("error"))
        connection.execute(_RECORD[event], values)


class _LeaseLost(Exception):
    """One of the leases does not hold, whichever it is."""


def _record_successes(
    database: Database, outcomes: Sequence[Outcome]
) -> dict[Lease, Settled] | None:
    """None, and nothing is recorded, where it takes another way as a lease does not hold."""
    try:
        with database.write_once() as connection:
            if connection.dialect.name == "postgresql":
                return _succeed_held(connection, outcomes)
            return _succeed_all(connection, outcomes)
    except _LeaseLost:
        return None


def _succeed_all(connection: Connection, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
    """Record successes; for SQLite.

    Raises:
        _LeaseLost: not all leases hold.
    """
    at = now(connection)
    leases = [
        {"at": at, "of_job": lease.job_id, "of_attempt": lease.attempt, "of_token": lease.token}
        for lease in (each.lease for each in outcomes)
    ]
    if _SUCCEED_ONE.execute(connection, leases) < len(outcomes):
        raise _LeaseLost
    RESULTS.execute(connection, [_result_row(each, at) for each in outcomes])
    return {each.lease: Settled(State.SUCCEEDED, at) for each in outcomes}


def _succeed_held(connection: Connection, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
    """Record those successes whose leases hold; for PostgreSQL, in one round trip."""
    rows = [
        {**_result_row(each, 0.0), "attempt": each.lease.attempt, "lease_token": each.lease.token}
        for each in outcomes
    ]
    ended = _SUCCEED.fetch(connection, {"rows": RESULTS.document(rows)})
    times = {row.job_id: row.created_at for row in ended}
    return {
        each.lease: Settled(State.SUCCEEDED, times[each.lease.job_id])
        for each in outcomes
        if each.lease.job_id in times
    }


def _result_row(outcome: Outcome, at: float) -> dict[str, Any]:
    assert outcome.result is not None  # noqa: S101 - a success has one
    return result_row(outcome.lease.job_id, outcome.result, outcome.fingerprint, at)
