"""The scheduler process: a round of repairs and of decisions every second or so."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time

import structlog
import uuid_utils

from nexus_jobs.bootstrap import connect
from nexus_jobs.config import JobSettings, Settings
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet_view import FleetView
from nexus_jobs.maintenance import Maintenance
from nexus_jobs.ports import Clock, ScheduleStore
from nexus_jobs.scheduling import Scheduling
from nexus_jobs.telemetry import configure_logging

log = structlog.get_logger(__name__)


class Rounds:
    """One round after the other; the next makes up for what went wrong in one."""

    def __init__(
        self,
        maintenance: Maintenance,
        scheduling: Scheduling,
        store: ScheduleStore,
        jobs: JobSettings,
        clock: Clock = time.monotonic,
    ) -> None:
        self._maintenance = maintenance
        self._scheduling = scheduling
        self._store = store
        self._jobs = jobs
        self._clock = clock
        # a worker that could not reach the database either has time for a heartbeat
        self._trust_leases_from = clock() + jobs.heartbeat_seconds

    def go(self) -> None:
        """Repair and decide, once; whatever goes wrong is logged."""
        try:
            self._await_store()
            self._maintenance.round(leases=self._clock() >= self._trust_leases_from)
            self._scheduling.round()
        except StoreUnavailable as error:
            log.warning("round.failed", reason=str(error))
            self._trust_later()
        except Exception:  # the next round may do what this one did not
            log.exception("round.failed")

    def _await_store(self) -> None:
        """Ask the database for something small; one that has frozen answers late, with no error."""
        asked = self._clock()
        self._store.clock()
        silent = self._clock() - asked
        if silent > self._jobs.heartbeat_seconds:
            log.warning("store.silent", seconds=round(silent, 1))
            self._trust_later()

    def _trust_later(self) -> None:
        """Give all leases one more term: whoever holds one could not extend it either."""
        self._trust_leases_from = self._clock() + self._jobs.lease_seconds


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    platform = connect(settings, answers=False)
    store = platform.store
    maintenance = Maintenance(
        store=store,
        bulks=store,
        fleet=store,
        routes=store,
        tickets=platform.tickets,
        signals=platform.signals,
        import_timeout=settings.scheduler.import_timeout_seconds,
    )
    scheduling = Scheduling(
        holder=f"{socket.gethostname()}/{os.getpid()}/{uuid_utils.uuid7()}",
        jobs=store,
        fleet=store,
        schedule=store,
        reports=FleetView(store, platform.loads).workers,
        settings=settings.scheduler,
    )
    rounds = Rounds(maintenance, scheduling, store, settings.jobs)
    log.info("scheduler.started")
    while not stop.is_set():
        rounds.go()
        stop.wait(settings.scheduler.interval_seconds)
    with contextlib.suppress(StoreUnavailable):
        scheduling.stop()
    platform.close()
