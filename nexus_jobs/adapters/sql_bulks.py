"""Bulks in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, Select, case, func, insert, select, union_all, update

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.sql_rows import JOBS_WITH_RESULTS, AnyRow, job_with_result
from nexus_jobs.adapters.sql_transitions import pick, transition
from nexus_jobs.adapters.tables import bulks, is_state, jobs, results
from nexus_jobs.adapters.transitions import BULK_SOURCES
from nexus_jobs.errors import Conflict
from nexus_jobs.job import Bulk, BulkProgress, BulkState, Job
from nexus_jobs.states import Event, State, sources


class SqlBulks:
    """BulkStore."""

    _database: Database

    def add_bulk(self, bulk: Bulk) -> Bulk:
        with self._database.write() as connection:
            added = replace(bulk, submitted_at=now(connection))
            connection.execute(
                insert(bulks).values(
                    id=added.id,
                    model=added.model,
                    filename=added.filename,
                    columns=added.columns,
                    total=added.total,
                    state=added.state,
                    submitted_at=added.submitted_at,
                    touched_at=added.submitted_at,
                )
            )
        return added

    def get_bulk(self, bulk_id: str) -> Bulk | None:
        with self._database.read() as connection:
            row = connection.execute(select(bulks).where(bulks.c.id == bulk_id)).first()
        return None if row is None else _bulk_of(row)

    def accept_bulk(self, bulk_id: str) -> Bulk:
        statement = update(bulks).where(_may_become(BulkState.ACCEPTED, bulk_id))
        statement = statement.values(state=BulkState.ACCEPTED)
        with self._database.write() as connection:
            row = connection.execute(statement.returning(bulks)).first()
        if row is None:
            raise Conflict(f"bulk {bulk_id} is not importing rows any more")
        return _bulk_of(row)

    def cancel_bulk(self, bulk_id: str, to: BulkState = BulkState.CANCELLED) -> bool:
        statement = update(bulks).where(_may_become(to, bulk_id)).values(state=to, ending=True)
        with self._database.write() as connection:
            return connection.execute(statement).rowcount > 0

    def cancel_rows(self, bulk_id: str, *, at_most: int) -> list[str]:
        with self._database.write() as connection:
            # locked, or one of two who cancel it at once would find its group cancelled, and stop
            ending = select(bulks.c.ending).where(bulks.c.id == bulk_id).with_for_update()
            if not connection.scalar(ending):
                return []
            left = connection.scalars(_unfinished_rows(bulk_id, at_most)).all()
            if not left:
                connection.execute(update(bulks).where(bulks.c.id == bulk_id).values(ending=False))
                return []
            rows = pick(Event.CANCEL, jobs.c.id.in_(left))
            cancel = transition(Event.CANCEL, now(connection), jobs.c.id.in_(select(rows.c.id)))
            return list(connection.scalars(cancel.returning(jobs.c.id)))

    def ending_bulks(self) -> list[str]:
        with self._database.read() as connection:
            return list(connection.scalars(select(bulks.c.id).where(bulks.c.ending)))

    def replay_bulk(
        self, bulk_id: str, *, attempts: int, slack_seconds: Sequence[float]
    ) -> Counter[str]:
        accepted = (bulks.c.id == bulk_id) & (bulks.c.state == BulkState.ACCEPTED)
        slack = case(dict(enumerate(slack_seconds)), value=jobs.c.priority)
        with self._database.write() as connection:
            bulk = select(bulks.c.id).where(accepted).with_for_update()
            if connection.execute(bulk).first() is None:
                return Counter()
            at = now(connection)
            rows = pick(Event.REPLAY, (jobs.c.bulk_id == bulk_id) & (jobs.c.attempt > 0))
            replay = transition(Event.REPLAY, at, jobs.c.id.in_(select(rows.c.id))).values(
                max_attempts=jobs.c.attempt + attempts,
                due_at=at + slack,
                expires_at=at + jobs.c.expires_in,
                run_after=None,
            )
            return Counter(connection.scalars(replay.returning(jobs.c.model)))

    def bulk_progress(self, bulk_id: str, *, window: float = 10.0) -> BulkProgress:
        by_state = (
            select(
                jobs.c.state,
                func.count(),
                func.min(jobs.c.started_at),
                func.max(jobs.c.finished_at),
            )
            .where(jobs.c.bulk_id == bulk_id)
            .group_by(jobs.c.state)
        )
        with self._database.read() as connection:
            at = now(connection)
            recent = (
                select(func.count(), func.coalesce(func.sum(results.c.completion_tokens), 0))
                .join_from(jobs, results)
                .where(jobs.c.bulk_id == bulk_id, is_state([State.SUCCEEDED]))
                .where(jobs.c.finished_at >= at - window)
            )
            rows = connection.execute(by_state).all()
            recent_rows, recent_tokens = connection.execute(recent).one()
        counts = dict.fromkeys(State, 0) | {State(state): count for state, count, _, _ in rows}
        return BulkProgress(
            counts=counts,
            now=at,
            window=window,
            recent_rows=recent_rows,
            recent_tokens=recent_tokens,
            first_start=min((start for _, _, start, _ in rows if start is not None), default=None),
            last_finish=max((end for _, _, _, end in rows if end is not None), default=None),
        )

    def bulk_rows(self, bulk_id: str, *, chunk: int = 1000) -> Iterator[Job]:
        in_order = JOBS_WITH_RESULTS.where(jobs.c.bulk_id == bulk_id).order_by(jobs.c.bulk_index)
        last = -1
        while True:
            with self._database.read() as connection:
                page = connection.execute(
                    in_order.where(jobs.c.bulk_index > last).limit(chunk)
                ).all()
            yield from map(job_with_result, page)
            if len(page) < chunk:
                return
            last = page[-1].bulk_index

    def stale_imports(self, timeout: float) -> list[str]:
        statement = select(bulks.c.id).where(
            bulks.c.state == BulkState.IMPORTING,
            bulks.c.touched_at <= database_now() - timeout,
        )
        with self._database.read() as connection:
            return list(connection.scalars(statement))


def _unfinished_rows(bulk_id: str, at_most: int) -> Select[str]:
    """The ids of up to `at_most` rows that are queued, then running.

    Each half is in the order of its index, or PostgreSQL would rather pass by all that have ended.
    """
    halves = [
        select(jobs.c.id)
        .where(jobs.c.bulk_id == bulk_id, is_state([state]))
        .order_by(jobs.c.finished_at, jobs.c.started_at)
        .limit(at_most)
        .subquery()
        for state in sorted(sources(Event.CANCEL))
    ]
    both = union_all(*(select(half.c.id) for half in halves)).subquery()
    return select(both.c.id).limit(at_most)


def _may_become(state: BulkState, bulk_id: str) -> ColumnElement[bool]:
    return (bulks.c.id == bulk_id) & bulks.c.state.in_(BULK_SOURCES[state])


def _bulk_of(row: AnyRow) -> Bulk:
    return Bulk(
        id=row.id,
        model=row.model,
        filename=row.filename,
        columns=row.columns,
        total=row.total,
        state=BulkState(row.state),
        submitted_at=row.submitted_at,
    )
