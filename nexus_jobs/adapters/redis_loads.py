"""The workers' latest reports in Redis."""

from __future__ import annotations

from typing import Final, cast

import structlog

from nexus_jobs.adapters import worker_reports
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.fleet import WorkerReport

log = structlog.get_logger(__name__)

TTL_SECONDS: Final = 5
"""A worker reports every second, so that it may miss a few."""
_PREFIX: Final = "nexus:load:"


class RedisLoads:
    """Key `nexus:load:<worker>` holds a report as JSON and goes away after the TTL."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    def put(self, report: WorkerReport) -> None:
        try:
            with self._link as client:
                client.set(_PREFIX + report.id, worker_reports.encode(report), ex=TTL_SECONDS)
        except QueueUnavailable as error:
            log.warning("load.unsent", reason=str(error))

    def drop(self, worker: str) -> None:
        try:
            with self._link as client:
                client.delete(_PREFIX + worker)
        except QueueUnavailable as error:
            log.warning("load.undropped", reason=str(error))

    def all(self) -> dict[str, WorkerReport]:
        try:
            with self._link as client:
                keys = list(client.scan_iter(_PREFIX + "*", count=1000))
                values = cast("list[bytes | None]", client.mget(keys)) if keys else []
        except QueueUnavailable as error:
            log.warning("loads.unread", reason=str(error))
            return {}
        reports = [report for value in values if value and (report := _decode(value))]
        return {report.id: report for report in sorted(reports, key=lambda report: report.id)}


def _decode(value: bytes) -> WorkerReport | None:
    try:
        return worker_reports.decode(value)
    except ValueError:  # a worker of another version; what it wrote to the database counts
        return None
