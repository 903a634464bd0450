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
from nexus_jobs.config import Settings
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet_view import FleetView
from nexus_jobs.maintenance import Maintenance
from nexus_jobs.scheduling import Scheduling
from nexus_jobs.telemetry import configure_logging

log = structlog.get_logger(__name__)


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
    log.info("scheduler.started")
    # a worker that could not reach the database either has time for a heartbeat
    trust_leases_from = time.monotonic() + settings.jobs.heartbeat_seconds
    while not stop.is_set():
        try:
            maintenance.round(leases=time.monotonic() >= trust_leases_from)
            scheduling.round()
        except StoreUnavailable as error:
            log.warning("round.failed", reason=str(error))
            # whoever holds a lease could not extend it either
            trust_leases_from = time.monotonic() + settings.jobs.lease_seconds
        stop.wait(settings.scheduler.interval_seconds)
    with contextlib.suppress(StoreUnavailable):
        scheduling.stop()
    platform.close()
