"""Who leads, who serves what, and why, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import uuid_utils
from sqlalchemy import and_, delete, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.sql_models import to_registered
from nexus_jobs.adapters.sql_upsert import upsert
from nexus_jobs.adapters.tables import assignments, decisions, leaders, models, recommendations
from nexus_jobs.fleet import Action, Assignment, Decision, Recommendation, RegisteredModel

ROLE: Final = "scheduler"
KEPT_DECISIONS: Final = 1000


class SqlSchedule:
    """ScheduleStore."""

    _database: Database

    def clock(self) -> float:
        with self._database.read() as connection:
            return now(connection)

    def lead(self, holder: str, *, seconds: float) -> bool:
        with self._database.write() as connection:
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            statement = dialect.insert(leaders).values(
                role=ROLE, holder=holder, expires_at=database_now() + seconds
            )
            free = or_(leaders.c.holder == holder, leaders.c.expires_at < database_now())
            statement = statement.on_conflict_do_update(
                index_elements=[leaders.c.role],
                set_={
                    "holder": statement.excluded.holder,
                    "expires_at": statement.excluded.expires_at,
                },
                where=free,
            )
            held = connection.scalars(statement.returning(leaders.c.holder))
            return held.one_or_none() is not None

    def stop_leading(self, holder: str) -> None:
        mine = and_(leaders.c.role == ROLE, leaders.c.holder == holder)
        with self._database.write_once() as connection:
            connection.execute(delete(leaders).where(mine))

    def assignments(self) -> list[Assignment]:
        query = select(assignments).order_by(assignments.c.worker, assignments.c.model)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Assignment(worker=row.worker, model=row.model, since=row.since) for row in rows]

    def assigned(self, worker: str) -> list[RegisteredModel]:
        mine = select(models).join(assignments, assignments.c.model == models.c.name)
        query = mine.where(assignments.c.worker == worker).order_by(models.c.name)
        with self._database.read() as connection:
            return [to_registered(row) for row in connection.execute(query)]

    def decide(self, holder: str, made: Sequence[Decision]) -> bool:
        leads = select(leaders.c.holder).where(
            leaders.c.role == ROLE,
            leaders.c.holder == holder,
            leaders.c.expires_at >= database_now(),
        )
        with self._database.write() as connection:
            if connection.execute(leads.with_for_update()).one_or_none() is None:
                return False
            at = now(connection)
            for decision in made:
                place = and_(
                    assignments.c.worker == decision.worker, assignments.c.model == decision.model
                )
                connection.execute(delete(assignments).where(place))
                if decision.action is Action.LOAD:
                    row = {"worker": decision.worker, "model": decision.model, "since": at}
                    connection.execute(insert(assignments).values(row))
                new = {**asdict(decision), "id": str(uuid_utils.uuid7()), "at": at}
                connection.execute(insert(decisions).values(new))
            latest = select(decisions.c.id).order_by(decisions.c.id.desc())
            last = latest.offset(KEPT_DECISIONS).limit(1).scalar_subquery()
            connection.execute(delete(decisions).where(decisions.c.id <= last))
        return True

    def forget_worker(self, worker: str) -> None:
        with self._database.write_once() as connection:
            connection.execute(delete(assignments).where(assignments.c.worker == worker))

    def decisions(self, limit: int) -> list[Decision]:
        query = select(decisions).order_by(decisions.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            Decision(
                action=Action(row.action),
                model=row.model,
                worker=row.worker,
                reason=row.reason,
                at=row.at,
            )
            for row in rows
        ]

    def recommend(self, replicas: Sequence[Recommendation]) -> None:
        # two who lead for a moment may do this at once: in one order, so that neither deadlocks
        rows = [asdict(one) for one in sorted(replicas, key=lambda one: one.model)]
        others = recommendations.c.model.not_in([row["model"] for row in rows])
        with self._database.write() as connection:
            upsert(connection, recommendations, rows)
            connection.execute(delete(recommendations).where(others))

    def recommendations(self) -> list[Recommendation]:
        query = select(recommendations).order_by(recommendations.c.model)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            Recommendation(model=row.model, replicas=row.replicas, reason=row.reason)
            for row in rows
        ]
