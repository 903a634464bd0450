"""Jobs in SQL: committing them and looking them up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal,
    select,
    tuple_,
    union_all,
    update,
)

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.idempotency import standing_ids
from nexus_jobs.adapters.row_insert import RowInsert
from nexus_jobs.adapters.sql_keys import keep_keys
from nexus_jobs.adapters.sql_rows import (
    JOBS_WITH_RESULTS,
    RESULT_COLUMNS,
    RESULTS,
    job_row,
    job_with_result,
    may_run,
    result_of,
    result_row,
)
from nexus_jobs.adapters.tables import bulks, is_state, jobs, results
from nexus_jobs.adapters.transitions import committed
from nexus_jobs.errors import Conflict
from nexus_jobs.job import BulkState, Job, NewJob, Result
from nexus_jobs.ports import JobFilter, ignore
from nexus_jobs.states import State

_JOBS = RowInsert(jobs, times=["submitted_at", "due_at", "expires_at", "finished_at"])
# one SELECT for each state, so that each can use that state's partial index
_UNFINISHED = union_all(
    *(
        select(jobs.c.model, jobs.c.state, func.count())
        .where(is_state([state]))
        .group_by(jobs.c.model, jobs.c.state)
        for state in (State.QUEUED, State.RUNNING)
    )
)
# ids sort by time, so that their index finds the latest; clients' clocks may be a little behind
_ARRIVALS = (
    select(jobs.c.model, func.count())
    .where(jobs.c.id >= bindparam("first"))
    .where(jobs.c.submitted_at >= bindparam("since"), jobs.c.bulk_id.is_(None))
    .group_by(jobs.c.model)
)
CLOCKS_APART: Final = 5.0
"""Seconds by which the clocks of API hosts may be behind the database's for jobs to be counted."""


class SqlJobs:
    """The part of JobStore that adds and reads."""

    _database: Database

    def add(
        self,
        new_jobs: Sequence[NewJob],
        claimable: Callable[[Sequence[Job]], None] = ignore,
        *,
        durable: bool = True,
    ) -> list[Job]:
        if not new_jobs:
            return []
        stored: list[Job] = []
        bulk_ids = {job.bulk_id for job in new_jobs if job.bulk_id}
        simple = not bulk_ids and not any(job.ended or job.idempotency for job in new_jobs)
        with self._database.write_and_tell(
            lambda: claimable(stored), once=simple, durable=durable
        ) as connection:
            _touch_bulks(connection, bulk_ids)
            ids = standing_ids(new_jobs, keep_keys(connection, new_jobs))
            fresh = [job for job, standing in zip(new_jobs, ids, strict=True) if job.id == standing]
            added = _insert(connection, fresh)
            earlier = set(ids) - added.keys()
            if earlier:
                added |= _select(connection, earlier)
            stored.extend(added[job_id] for job_id in ids)
        return stored

    def flush(self) -> None:
        self._database.flush()

    def get(self, job_id: str) -> Job | None:
        return self.get_many([job_id]).get(job_id)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        with self._database.read() as connection:
            return _select(connection, job_ids)

    def search(self, which: JobFilter, *, limit: int, before: str | None = None) -> Sequence[Job]:
        shadow = jobs.c.shadow_of.is_not(None)
        statement = JOBS_WITH_RESULTS.where(shadow if which.shadows else ~shadow)
        statement = statement.order_by(jobs.c.id.desc()).limit(limit)
        if which.state is not None:
            statement = statement.where(is_state([which.state]))
        if which.model is not None:
            statement = statement.where(jobs.c.model == which.model)
        if which.route is not None:
            statement = statement.where(jobs.c.route == which.route)
        if which.bulk_id is not None:
            statement = statement.where(jobs.c.bulk_id == which.bulk_id)
        if before is not None:
            statement = statement.where(jobs.c.id < before)
        with self._database.read() as connection:
            return [job_with_result(row) for row in connection.execute(statement)]

    def backlog(self, models: Sequence[str], at_most: int) -> dict[str, int]:
        if not models:
            return {}
        statement = union_all(*(_ready(model, at_most) for model in models))
        with self._database.read() as connection:
            return {model: count for model, count in connection.execute(statement) if count}

    def arrivals(self, seconds: float) -> dict[str, int]:
        with self._database.read() as connection:
            since = now(connection) - seconds
            rows = connection.execute(_ARRIVALS, {"since": since, "first": _id_at(since)})
            return dict(rows.all())

    def position(self, job: Job, at_most: int) -> int:
        before = and_(
            jobs.c.model == job.request.model,
            jobs.c.suspect.is_(job.suspect),  # those have a queue of their own
            is_state([State.QUEUED]),
            tuple_(jobs.c.due_at, jobs.c.id) < (job.due_at, job.id),
        )
        some = select(jobs.c.id).where(before).limit(at_most).subquery()
        with self._database.read() as connection:
            return connection.scalars(select(func.count()).select_from(some)).one()

    def counts(self) -> dict[tuple[str, State], int]:
        with self._database.read() as connection:
            rows = connection.execute(_UNFINISHED)
            return {(model, State(state)): count for model, state, count in rows}

    def find_results(self, fingerprints: Sequence[str], *, max_age: float) -> dict[str, Result]:
        # the index alone finds the newest, however often the same request has been computed
        newest = (
            select(results.c.fingerprint, func.max(results.c.created_at).label("created_at"))
            .where(results.c.fingerprint.in_(fingerprints))
            .where(results.c.created_at >= database_now() - max_age)
            .group_by(results.c.fingerprint)
            .subquery()
        )
        statement = select(results.c.fingerprint, *RESULT_COLUMNS).join(
            newest,
            (results.c.fingerprint == newest.c.fingerprint)
            & (results.c.created_at == newest.c.created_at),
        )
        with self._database.read() as connection:
            return {row.fingerprint: result_of(row) for row in connection.execute(statement)}


def _id_at(seconds: float) -> str:
    """The least id that a host may have made at that time."""
    milliseconds = int((seconds - CLOCKS_APART) * 1000)
    return str(UUID(int=max(0, milliseconds) << 80))


def _ready(model: str, at_most: int) -> Select[str, int]:
    queued = select(jobs.c.id).where(jobs.c.model == model, is_state([State.QUEUED]), may_run())
    return select(literal(model), func.count()).select_from(queued.limit(at_most).subquery())


def _insert(connection: Connection, new_jobs: Sequence[NewJob]) -> dict[str, Job]:
    if not new_jobs:
        return {}
    at = _JOBS.execute(connection, [job_row(committed(job, 0)) for job in new_jobs])
    added = [committed(job, at) for job in new_jobs]
    copies = [result_row(job.id, job.result, None, at) for job in added if job.result]
    if copies:
        RESULTS.execute(connection, copies)
    return {job.id: job for job in added}


def _select(connection: Connection, job_ids: Collection[str]) -> dict[str, Job]:
    statement = JOBS_WITH_RESULTS.where(jobs.c.id.in_(job_ids))
    return {row.id: job_with_result(row) for row in connection.execute(statement)}


def _touch_bulks(connection: Connection, bulk_ids: set[str]) -> None:
    """Note that rows are arriving, and keep the bulks from being given up until they are in.

    Raises:
        Conflict: one of the bulks is not importing.
    """
    for bulk_id in sorted(bulk_ids):
        importing = (bulks.c.id == bulk_id) & (bulks.c.state == BulkState.IMPORTING)
        touched = connection.execute(
            update(bulks).where(importing).values(touched_at=database_now())
        )
        if touched.rowcount == 0:
            raise Conflict(f"bulk {bulk_id} is not importing rows any more")
