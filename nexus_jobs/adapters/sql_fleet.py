"""The registered models and the workers in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.tables import models, workers
from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
from nexus_jobs.models import ModelConfig


class SqlFleet:
    """FleetStore."""

    _database: Database

    def sync_models(self, registered: Sequence[ModelConfig]) -> None:
        rows: list[dict[str, Any]] = [
            {"name": model.name, "position": place, "config": model.model_dump(mode="json")}
            for place, model in enumerate(registered)
        ]
        rows.sort(key=lambda row: row["name"])  # one order for all, so that nobody deadlocks
        with self._database.write() as connection:
            gone = models.c.name.not_in([row["name"] for row in rows])
            connection.execute(delete(models).where(gone))
            upsert(connection, models, rows)

    def models(self) -> list[ModelConfig]:
        with self._database.read() as connection:
            configs = connection.scalars(select(models.c.config).order_by(models.c.position))
            return [ModelConfig.model_validate(config) for config in configs]

    def report(self, worker: WorkerReport) -> None:
        row = {
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "device": worker.device,
            "models": dict(worker.models),
        }
        with self._database.write() as connection:
            upsert(connection, workers, [{**row, "seen_at": now(connection)}])

    def retire(self, worker_id: str, pid: int) -> None:
        mine = and_(workers.c.id == worker_id, workers.c.pid == pid)
        with self._database.write() as connection:
            connection.execute(delete(workers).where(mine))

    def workers(self, *, max_age: float) -> list[WorkerReport]:
        seen = select(workers).where(workers.c.seen_at >= database_now() - max_age)
        with self._database.read() as connection:
            rows = connection.execute(seen.order_by(workers.c.id)).all()
        return [
            WorkerReport(
                id=row.id,
                host=row.host,
                pid=row.pid,
                device=row.device,
                models={name: _served(value) for name, value in row.models.items()},
                seen_at=row.seen_at,
            )
            for row in rows
        ]


def _served(value: dict[str, Any]) -> ServedModel:
    return ServedModel(**{**value, "state": ModelState(value["state"])})


def upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows, or overwrite those that have the same primary key."""
    if not rows:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(table)
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={c.name: statement.excluded[c.name] for c in table.columns if not c.primary_key},
    )
    connection.execute(statement, rows)
