"""Idempotency keys in SQL; the primary key decides between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType

from sqlalchemy import Connection, CursorResult, Insert, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from nexus_jobs.adapters.database import Database, database_now
from nexus_jobs.adapters.idempotency import KeptKey, standing_id
from nexus_jobs.adapters.sql_rows import JOBS_WITH_RESULTS, job_with_result
from nexus_jobs.adapters.tables import idempotency_keys as keys
from nexus_jobs.adapters.tables import jobs
from nexus_jobs.job import Idempotency, Job, NewJob

FORGOTTEN_AT_ONCE = 10_000
"""Keys; so that nobody waits long for a large table to be tidied up."""


class SqlKeys:
    """The part of JobStore that finds and forgets keys."""

    _database: Database

    def find_keyed(self, mine: Idempotency) -> Job | None:
        with self._database.read() as connection:
            kept = _kept(connection.execute(_STANDING, {"names": [mine.key]}))
            if not kept:
                return None
            of_key = JOBS_WITH_RESULTS.where(jobs.c.id == standing_id(mine, kept))
            return job_with_result(connection.execute(of_key).one())

    def forget_keys(self) -> int:
        with self._database.write_once(durable=False) as connection:
            return len(connection.scalars(_FORGET).all())


def keep_keys(connection: Connection, new_jobs: Sequence[NewJob]) -> dict[str, KeptKey]:
    """Keep those keys of the new jobs that are new or run out; what each key stands for now.

    A transaction that has the same key in hand is waited for. All keys stay locked.
    """
    # of several jobs with one key the first has it
    rows = {
        job.idempotency.key: {**asdict(job.idempotency), "job_id": job.id}
        for job in reversed(new_jobs)
        if job.idempotency
    }
    if not rows:
        return {}
    in_order = [rows[key] for key in sorted(rows)]  # the same for all, so that nobody deadlocks
    connection.execute(_KEEP[connection.dialect.name], in_order)
    return _kept(connection.execute(_KEPT, {"names": list(rows)}))


def _kept(rows: CursorResult[str, str, str]) -> dict[str, KeptKey]:
    return {row.key: KeptKey(row.digest, row.job_id) for row in rows}


def _keep(dialect: ModuleType) -> Insert:
    statement = dialect.insert(keys).values(expires_at=database_now() + bindparam("seconds"))
    taken = statement.excluded
    kept: Insert = statement.on_conflict_do_update(
        index_elements=[keys.c.key],
        set_={"digest": taken.digest, "job_id": taken.job_id, "expires_at": taken.expires_at},
        where=keys.c.expires_at <= database_now(),
    )
    return kept


_KEEP = {"postgresql": _keep(postgresql), "sqlite": _keep(sqlite)}
_KEPT = select(keys.c.key, keys.c.digest, keys.c.job_id).where(
    keys.c.key.in_(bindparam("names", expanding=True))
)
_STANDING = _KEPT.where(keys.c.expires_at > database_now())
# what somebody has in hand is left for the next time, so that nobody deadlocks
_old = (
    select(keys.c.key)
    .where(keys.c.expires_at <= database_now())
    .limit(FORGOTTEN_AT_ONCE)
    .with_for_update(skip_locked=True)
    .cte("old")
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_FORGET = delete(keys).where(keys.c.key.in_(select(_old.c.key))).returning(keys.c.key)
