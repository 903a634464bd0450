"""The workers' latest reports in this process."""

from __future__ import annotations

from nexus_jobs.fleet import WorkerReport


class MemoryLoads:
    """LiveLoads of one process."""

    def __init__(self) -> None:
        self._reports: dict[str, WorkerReport] = {}

    def put(self, report: WorkerReport) -> None:
        self._reports[report.id] = report

    def drop(self, worker: str) -> None:
        self._reports.pop(worker, None)

    def all(self) -> dict[str, WorkerReport]:
        return dict(sorted(self._reports.items()))
