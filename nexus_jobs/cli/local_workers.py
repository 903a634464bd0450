"""The workers of `nexus up`: as many as the scheduler recommends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from nexus_jobs.autoscaling import Autoscaler
from nexus_jobs.config import Settings
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet import WHOLE_FLEET
from nexus_jobs.supervisor import Child, Supervisor

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 2.0


class LocalWorkers:
    """Starts workers and lets them go as the scaler says; the last to come is the first to go."""

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Settings,
        scaler: Autoscaler,
        worker: Callable[[int], Child],
    ) -> None:
        from nexus_jobs.bootstrap import connect

        self._supervisor = supervisor
        self._scaler = scaler
        self._worker = worker
        self._count = scaler.least
        self._platform = connect(settings, answers=False)
        self._look_at = 0.0

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._platform.close()

    def adapt(self) -> bool:
        """Follow the latest recommendation; False, for there is always more to do."""
        now = time.monotonic()
        if self._scaler.most > self._scaler.least and now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._follow(self._scaler.workers(now, self._count, self._recommended()))
        return False

    def _follow(self, aim: int) -> None:
        for number in range(self._count + 1, aim + 1):
            try:
                self._supervisor.start(self._worker(number))
            except OSError as error:  # no memory or too many processes; the next look tries again
                log.warning("worker.not_started", reason=str(error))
                aim = number - 1
                break
        for number in range(self._count, aim, -1):
            self._supervisor.let_go(self._worker(number).name)
        if aim != self._count:
            log.info("workers.scaled", before=self._count, now=aim)
        self._count = aim

    def _recommended(self) -> int:
        try:
            recommended = self._platform.store.recommendations()
        except StoreUnavailable:  # as long as nobody knows better, all stays as it is
            return self._count
        return next((one.replicas for one in recommended if one.model == WHOLE_FLEET), 0)
