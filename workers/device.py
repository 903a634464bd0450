"""A worker process: the models it serves on one device, their leases, and its report."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from nexus_jobs.config import Settings
from nexus_jobs.engine import Engine
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.execution import Settlement
from nexus_jobs.fleet import WorkerReport
from nexus_jobs.job import Lease
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel, FleetStore, Hints, JobStore, Signals
from workers.runner import ModelRunner
from workers.threads import vital_thread

log = structlog.get_logger(__name__)


class BatchStuck(Exception):
    """An engine does not come back from a step."""


class Device:
    """Starts a runner for each model and keeps their leases alive."""

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        name: str,
        settings: Settings,
        store: JobStore,
        fleet: FleetStore,
        settlement: Settlement,
        signals: Signals,
        build_engine: Callable[[ModelConfig], Engine],
        waiting_tickets: int,
    ) -> None:
        self._name = name
        self._settings = settings
        self._store = store
        self._fleet = fleet
        self._stopped = threading.Event()
        self._beaten_at = float("-inf")
        self._heart = vital_thread("heart", self._beat)
        self._runners: Mapping[str, ModelRunner] = {
            model.name: ModelRunner(
                model,
                worker=name,
                store=store,
                settlement=settlement,
                build_engine=build_engine,
                settings=settings,
                heard_of=self._is_heard_of,
                waiting_tickets=waiting_tickets,
            )
            for model in models
        }
        signals.listen(Channel.CANCELLED, self._cancelled)

    def start(self) -> None:
        """Begin to load all models."""
        for runner in self._runners.values():
            runner.start()
        self._heart.start()

    def credit(self, model: str, count: int) -> None:
        """Hand a ticket to the model's runner; a ticket for a model that is not here is dropped."""
        runner = self._runners.get(model)
        if runner is None:
            log.warning("ticket.stray", model=model)
        else:
            runner.credit(count)

    def drain(self) -> None:
        """Claim no more; running rows have the grace period to end. Does not block."""
        deadline = time.monotonic() + self._settings.worker.grace_seconds
        for runner in self._runners.values():
            runner.drain(deadline)

    def join(self) -> None:
        """Wait until all rows have ended or been handed back; call `drain` first."""
        for runner in self._runners.values():
            runner.join()
        self._stopped.set()
        self._heart.join()
        try:
            self._fleet.retire(self._name, os.getpid())
        except StoreUnavailable as error:
            log.warning("retire.failed", reason=str(error))

    def _beat(self) -> None:
        interval, last = self._settings.jobs.heartbeat_seconds, time.monotonic()
        while not self._stopped.is_set():
            last, before = time.monotonic(), last
            if last > before + 2 * interval:  # the whole process was stopped, not one batch
                for runner in self._runners.values():
                    runner.resume()
            try:
                self._extend_leases()
                self._fleet.report(self._report())
                self._beaten_at = last
            except StoreUnavailable as error:
                log.warning("heartbeat.failed", reason=str(error))
            self._stopped.wait(interval)

    def _is_heard_of(self) -> bool:
        """Whether the last heartbeat is so recent that what is claimed now can be kept.

        A database that answers nothing else may still hand out jobs, which would lapse one after
        the other and use up their attempts.
        """
        return time.monotonic() < self._beaten_at + self._settings.jobs.lease_seconds

    def _extend_leases(self) -> None:
        """Keep the jobs that are here, but for those of a batch that is stuck.

        Raises:
            BatchStuck: others have those jobs by now, and this process is of no more use.
        """
        patience = self._settings.worker.stuck_seconds + self._settings.jobs.lease_seconds
        for model, runner in self._runners.items():
            if runner.stuck_for > patience:
                raise BatchStuck(f"model {model!r} has made no step for {patience:g} s")
        leases = [lease for runner in self._runners.values() for lease in runner.leases()]
        if not leases:
            return
        held = self._store.heartbeat(leases, lease_seconds=self._settings.jobs.lease_seconds)
        lost = set(leases) - held
        self._evict(lost.__contains__)

    def _cancelled(self, hints: Hints) -> None:
        self._evict(lambda lease: lease.job_id in hints)

    def _evict(self, lost: Callable[[Lease], bool]) -> None:
        for runner in self._runners.values():
            runner.evict(lost)

    def _report(self) -> WorkerReport:
        return WorkerReport(
            id=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device="cpu",
            models={name: runner.report() for name, runner in self._runners.items()},
        )
