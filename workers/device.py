"""A worker process: the models it serves, their leases, and what it says of itself."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence

import structlog

from nexus_jobs.bootstrap import Platform, settlement_on
from nexus_jobs.engine import Engine
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet import Measured, ModelState, RegisteredModel, Wanted, WorkerReport
from nexus_jobs.job import Lease
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel, Hints
from workers import memory
from workers.placement import Placement
from workers.runner import ModelRunner
from workers.serving import Workplace
from workers.threads import vital_thread
from workers.tickets import LetGo

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""How often to look for other assignments, and to publish a report."""


class BatchStuck(Exception):
    """An engine does not come back from a step."""


class Device:
    """Holds the models that it is to serve and keeps the leases of their jobs alive.

    These are the `fixed` ones, or those that the scheduler assigns if that is None. `subscribe` is
    told again and again which of them are ready for tickets; it must not block.
    """

    def __init__(
        self,
        platform: Platform,
        *,
        name: str,
        fixed: Collection[str] | None,
        build_engine: Callable[[ModelConfig], Engine],
        subscribe: Callable[[Collection[str]], None],
    ) -> None:
        self._name = name
        self._fixed = fixed
        self._settings = platform.settings
        self._store = platform.store
        self._loads = platform.loads
        self._workplace = Workplace(
            worker=name,
            settings=platform.settings,
            store=platform.store,
            settlement=settlement_on(platform),
            heard_of=self._is_heard_of,
        )
        self._build_engine = build_engine
        self._subscribe = subscribe
        self._draining = False
        self._stopped = threading.Event()
        self._to_report, self._to_place = threading.Event(), threading.Event()
        self._beaten_at = float("-inf")
        self._wanted: Sequence[RegisteredModel] = ()
        self._memory_mb = memory.budget(self._settings.worker)
        self._placement = Placement(
            self._start_runner,
            grace_seconds=self._settings.worker.grace_seconds,
            memory_mb=self._memory_mb,
        )
        self._threads = [
            vital_thread("heart", self._beat),
            vital_thread("placement", self._keep_placed),
            vital_thread("live load", self._publish),
        ]
        platform.signals.listen(Channel.CANCELLED, self._cancelled)

    def start(self) -> None:
        """Begin to load the models."""
        self._place()
        for thread in self._threads:
            thread.start()

    def announce(self, model: str, count: int, let_go: LetGo) -> bool:
        """A ticket tells of so many new jobs; whether it has to wait for them.

        One for a model that is not here is dropped.
        """
        runner = self._placement.runners.get(model)
        if runner is None:
            log.warning("ticket.stray", model=model)
            return False
        return runner.announce(count, let_go)

    def ready(self) -> list[str]:
        """The models whose tickets are welcome."""
        runners = self._placement.runners.items()
        return [name for name, one in runners if one.report().state is ModelState.READY]

    def drain(self) -> None:
        """Claim no more; running rows have the grace period to end. Does not block."""
        self._draining = True
        self._placement.drain()

    def join(self) -> None:
        """Wait until all rows have ended or been handed back; call `drain` first."""
        self._placement.join()
        self._stopped.set()
        self._to_report.set()
        self._to_place.set()
        for thread in self._threads:
            thread.join()
        self._loads.drop(self._name)
        try:
            self._store.retire(self._name, os.getpid())
            if self._fixed is None:
                self._store.forget_worker(self._name)
        except StoreUnavailable as error:
            log.warning("retire.failed", reason=str(error))

    def _start_runner(self, model: RegisteredModel) -> ModelRunner:
        runner = ModelRunner(
            model,
            self._workplace,
            build_engine=self._build_engine,
            changed=self._changed,
            measured=self._note_measured,
        )
        runner.start()
        return runner

    def _keep_placed(self) -> None:
        while not self._stopped.is_set():
            self._to_place.wait(LOOK_SECONDS)
            self._to_place.clear()
            self._place()

    def _place(self) -> None:
        """Hold what is to be served; while the database is away, that is what it was."""
        if self._draining:
            return
        try:
            self._wanted = self._look_up()
        except StoreUnavailable as error:
            log.warning("assignments.unread", reason=str(error))
        before = self._placement.runners.keys()
        self._placement.converge(self._wanted)
        if self._placement.runners.keys() != before:
            self._to_report.set()
        self._subscribe(self.ready())

    def _look_up(self) -> Sequence[RegisteredModel]:
        if self._fixed is None:
            return self._store.assigned(self._name)
        return [
            model
            for model in self._store.registered()
            if model.name in self._fixed and model.wanted is not Wanted.UNLOADED
        ]

    def _changed(self) -> None:
        """The state of a model is another one."""
        self._to_report.set()
        self._to_place.set()

    def _note_measured(self, model: str, measured: Measured) -> None:
        try:
            self._store.note_measured(model, measured)
        except StoreUnavailable as error:
            log.warning("measured.unsaved", reason=str(error))

    def _beat(self) -> None:
        interval, last = self._settings.jobs.heartbeat_seconds, time.monotonic()
        while not self._stopped.is_set():
            self._to_report.clear()
            last, before = time.monotonic(), last
            if last > before + 2 * interval:  # the whole process was stopped, not one batch
                for runner in self._placement.runners.values():
                    runner.resume()
            try:
                self._extend_leases()
                self._store.report(self._report())
                self._beaten_at = last
            except StoreUnavailable as error:
                log.warning("heartbeat.failed", reason=str(error))
            self._to_report.wait(interval)

    def _publish(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self._loads.put(self._report())

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
        runners = self._placement.runners
        patience = self._settings.worker.stuck_seconds + self._settings.jobs.lease_seconds
        for model, runner in runners.items():
            if runner.stuck_for > patience:
                raise BatchStuck(f"model {model!r} has made no step for {patience:g} s")
        leases = [lease for runner in runners.values() for lease in runner.leases()]
        if not leases:
            return
        held = self._store.heartbeat(leases, lease_seconds=self._settings.jobs.lease_seconds)
        lost = set(leases) - held
        self._evict(lost.__contains__)

    def _cancelled(self, hints: Hints) -> None:
        self._evict(lambda lease: lease.job_id in hints)

    def _evict(self, lost: Callable[[Lease], bool]) -> None:
        for runner in self._placement.runners.values():
            runner.evict(lost)

    def _report(self) -> WorkerReport:
        runners = self._placement.runners
        devices = {runner.device for runner in runners.values() if runner.device is not None}
        device = ", ".join(sorted(devices)) or "cpu"
        return WorkerReport(
            id=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device,
            models={name: runner.report() for name, runner in runners.items()},
            fixed=self._fixed is not None,
            draining=self._draining,
            max_models=self._settings.worker.max_models,
            memory_mb=self._memory_mb,
            gpu_memory_mb=memory.on_gpu(devices),
        )
