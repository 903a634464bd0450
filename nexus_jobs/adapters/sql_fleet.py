"""The workers in SQL."""

from __future__ import annotations

from dataclasses import replace

import structlog
from sqlalchemy import and_, delete, select

from nexus_jobs.adapters import worker_reports
from nexus_jobs.adapters.database import Database, database_now, now
from nexus_jobs.adapters.sql_upsert import upsert
from nexus_jobs.adapters.tables import workers
from nexus_jobs.fleet import WorkerReport

log = structlog.get_logger(__name__)


class SqlFleet:
    """The workers' half of FleetStore."""

    _database: Database

    def report(self, worker: WorkerReport) -> None:
        row = {
            "id": worker.id,
            "pid": worker.pid,
            "report": worker_reports.encode(worker).decode(),
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
        return [report for row in rows if (report := _report(row.report, row.seen_at))]


def _report(text: str, seen_at: float) -> WorkerReport | None:
    try:
        return replace(worker_reports.decode(text), seen_at=seen_at)
    except ValueError as error:
        log.warning("report.unread", reason=str(error))
        return None
