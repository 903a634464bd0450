"""The statements that move jobs from state to state."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, ColumnElement, Select, Update, select, update

from nexus_jobs.adapters.tables import is_state, jobs
from nexus_jobs.adapters.transitions import changes
from nexus_jobs.states import Event, sources


def transition(
    event: Event, at: float | ColumnElement[float], which: ColumnElement[bool]
) -> Update:
    """The statement that makes `event` happen to those jobs that it may happen to."""
    return (
        update(jobs)
        .where(which, is_state(sources(event)))
        .values(**changes(event, at), lease_expires_at=None)
    )


def pick(
    event: Event,
    which: ColumnElement[bool],
    *,
    at_most: int | None = None,
    skip_locked: bool = False,
) -> CTE:
    """The ids of jobs that `event` may happen to, locked; by id, so that nobody deadlocks."""
    ids = select(jobs.c.id).where(which, is_state(sources(event))).order_by(jobs.c.id)
    return locked(ids.limit(at_most), skip_locked=skip_locked)


def locked(rows: Select[*tuple[Any, ...]], *, skip_locked: bool = False) -> CTE:
    """The rows, and those of `jobs` among them locked."""
    # materialized: PostgreSQL must not run the locking SELECT more than once
    picked = rows.with_for_update(of=jobs, skip_locked=skip_locked).cte("picked")
    return picked.prefix_with("MATERIALIZED", dialect="postgresql")
