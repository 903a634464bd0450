"""One model on this worker: its engine, its batch loop, and the threads around it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import structlog

from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy, RowLimit
from nexus_jobs.config import Settings
from nexus_jobs.engine import Engine
from nexus_jobs.errors import EngineError, InvalidRequest, ModelUnavailable
from nexus_jobs.execution import Row, Settlement, prepare, try_out
from nexus_jobs.fleet import Measured, ModelState, RegisteredModel, ServedModel
from nexus_jobs.job import Job, Lease, Outcome
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import JobStore
from nexus_jobs.retry import RetryPolicy
from nexus_jobs.states import Event
from workers.activity import ActivityMeter
from workers.adaptation import Adaptation
from workers.batch_loop import BatchLoop, End
from workers.claims import Claims
from workers.feeder import Feeder
from workers.finisher import Finished, Finisher
from workers.loading import Loaded, Loader
from workers.threads import vital_thread

log = structlog.get_logger(__name__)

MOST_UNCOMMITTED = 1000
"""Jobs that may be here beyond the slots: results that wait for a database that is away."""


class ModelRunner:
    """Loads a model and runs its jobs until drained.

    Three threads: the feeder claims, the loop steps, the finisher commits. Nothing is claimed
    while the worker is not `heard_of`. `changed` is called when the state does, `measured` when the
    model has been loaded; neither may block. The public methods may be called from any thread.
    """

    def __init__(
        self,
        registered: RegisteredModel,
        *,
        worker: str,
        store: JobStore,
        settlement: Settlement,
        build_engine: Callable[[ModelConfig], Engine],
        settings: Settings,
        heard_of: Callable[[], bool],
        waiting_tickets: int,
        changed: Callable[[], None],
        measured: Callable[[str, Measured], None],
    ) -> None:
        self.model = model = registered.config
        self.version = registered.version
        self.gone = False
        """Its jobs are settled and its memory is given back."""
        self._changed = changed
        self._measured = measured
        self._heard_of = heard_of
        self._claims = Claims(
            model.name,
            worker=worker,
            store=store,
            lease_seconds=settings.jobs.lease_seconds,
            room=self._room,
        )
        self._settings = settings
        self._retry = RetryPolicy(
            first=settings.jobs.retry_seconds, longest=settings.jobs.longest_retry_seconds
        )
        self._tickets = threading.BoundedSemaphore(waiting_tickets)
        self._lock = threading.Lock()
        self._state = ServedModel(
            ModelState.LOADING, slots=model.max_batch_size, version=self.version
        )
        self._usable, self._stopping = threading.Event(), threading.Event()
        self._loader = Loader(
            model, build=build_engine, stopping=self._stopping, become=self._become
        )
        self._loaded: Loaded | None = None
        self._meter = ActivityMeter(time.monotonic)
        self._deadline, self._awake_since = float("inf"), 0.0
        self._feeder: Feeder | None = None
        self._loop: BatchLoop | None = None
        self._adaptation: Adaptation | None = None
        self._new_finisher = partial(Finisher, settlement, self._settled, self._failed)
        self._main = vital_thread(f"batch {model.name}", self._run)

    def start(self) -> None:
        """Begin loading; jobs are claimed once the model is ready."""
        self._main.start()

    def credit(self, count: int) -> None:
        """A ticket came in: wait with it until its jobs are claimed.

        Only so many tickets of one model wait for ever; further ones are let go after a while,
        so that another model's tickets find a free thread. No job depends on them.
        """
        may_stay = self._tickets.acquire(blocking=False)
        at_most = None if may_stay else self._settings.worker.poll_seconds
        try:
            self._usable.wait(at_most)
            if self._feeder is not None:
                self._feeder.credit(count, at_most=at_most)
        finally:
            if may_stay:
                self._tickets.release()

    @property
    def stuck_for(self) -> float:
        """Seconds since the batch last got on; 0 if it has nothing to do."""
        if self._loop is None:
            return 0.0
        return min(self._loop.stuck_for, time.monotonic() - self._awake_since)

    def resume(self) -> None:
        """The process was stopped for a while, so the batch is not stuck."""
        self._awake_since = time.monotonic()

    def leases(self) -> list[Lease]:
        """The leases of all jobs that are here and wanted, from claim to commit.

        None while the batch is stuck, so that they lapse.
        """
        if self._stuck:
            return []
        return self._claims.leases()

    def evict(self, lost: Callable[[Lease], bool]) -> None:
        """Drop the jobs that were cancelled or whose lease is lost."""
        gone = self._claims.lose(lost)
        if gone and self._loop is not None and self._feeder is not None:
            self._loop.evict(gone)
            for row in self._feeder.drop_suspects(gone):
                self._leave(row, Event.RELEASE)

    def report(self) -> ServedModel:
        """What the fleet may know about this model here."""
        state, loop, loaded = self._state, self._loop, self._loaded
        if loop is None or loaded is None:
            return state
        return replace(
            state,
            running=loop.running,
            memory_mb=loaded.memory_mb,
            healthy_at=loop.healthy_at or loaded.healthy_at,
            activity=self._meter.read(),
        )

    @property
    def device(self) -> str | None:
        """Where the model runs, once it is loaded."""
        loaded = self._loaded
        return loaded.engine.device if loaded is not None else None

    @property
    def draining(self) -> bool:
        return self._stopping.is_set()

    def drain(self, deadline: float) -> None:
        """Claim no more, and hand back what still runs at `deadline` (monotonic seconds)."""
        with self._lock:
            self._deadline = min(self._deadline, deadline)
            self._stopping.set()
            self._usable.set()
            if self._loop is not None:
                self._loop.drain(self._deadline)
        self._become(ModelState.DRAINING)

    def join(self) -> None:
        """Wait until all rows are committed or handed back; call `drain` first."""
        self._main.join()

    @property
    def _stuck(self) -> bool:
        return self.stuck_for > self._settings.worker.stuck_seconds

    def _run(self) -> None:
        while (loaded := self._loader.load()) is not None:
            self._loaded = loaded
            self._measured(self.model.name, loaded.measured)
            try:
                self._serve(loaded.engine)
            except ModelUnavailable as error:  # it died; another may live
                log.error("engine.died", model=self.model.name, reason=str(error))
                self._become(ModelState.LOADING, str(error))
            finally:
                self._loaded = None
                loaded.engine.close()
        self.gone = True
        log.info("model.gone", model=self.model.name)
        self._changed()

    def _become(self, state: ModelState, reason: str | None = None) -> None:
        """Take on a state; a reason stays until the model is ready. Draining is the last one."""
        with self._lock:
            before = self._state
            if self._stopping.is_set():
                state = ModelState.DRAINING
            self._state = replace(before, state=state, reason=reason or before.reason)
        if self._state != before:
            self._changed()

    def _serve(self, engine: Engine) -> None:
        """Run jobs on this engine until drained.

        Raises:
            ModelUnavailable: the engine has died, and all jobs are handed back.
        """
        self._finisher = self._new_finisher()
        feeder, loop = self._assemble(engine)
        threads = [
            vital_thread(f"feeder {self.model.name}", feeder.run),
            vital_thread(f"finisher {self.model.name}", self._finisher.run),
        ]
        for thread in threads:
            thread.start()
        try:
            loop.run()
        finally:
            feeder.stop()
            threads[0].join()
            for row in feeder.leftovers():
                self._leave(row, Event.RELEASE)
            self._finisher.stop(give_up_at=self._deadline)
            threads[1].join()

    def _assemble(self, engine: Engine) -> tuple[Feeder, BatchLoop]:
        bounds = BatchPolicy(
            slots=engine.slots,
            max_wait=self.model.max_wait_ms / 1000,
            max_join_tokens=None if engine.bounds_prefill else self.model.max_batch_tokens,
        )
        if self.model.target_latency_ms is not None:
            controller = AdaptiveBatching(bounds, self.model.target_latency_ms / 1000)
            self._adaptation = Adaptation(controller, engine, time.monotonic)
        wish = self._adaptation.policy if self._adaptation else lambda: bounds
        limit = RowLimit(bounds.slots)
        self._meter = ActivityMeter(time.monotonic)
        feeder = Feeder(
            policy=lambda: limit.bound(wish()),
            claim=self._claim,
            prepare=partial(self._prepare, engine),
            committed=lambda waiting: len(self._claims) <= waiting,
            poll_seconds=self._settings.worker.poll_seconds,
            clock=time.monotonic,
        )
        loop = BatchLoop(
            model=self.model.name,
            engine=self._adaptation.engine if self._adaptation else engine,
            feeder=feeder,
            wanted=self._claims.__contains__,
            leave=self._leave,
            limit=limit,
            meter=self._meter,
            probe=partial(_probe, engine),
            probe_seconds=self.model.health_check_interval,
            longest_run=self._settings.jobs.longest_run_seconds,
        )
        with self._lock:
            self._feeder, self._loop = feeder, loop
            state = ModelState.READY
            if self._stopping.is_set():
                state = ModelState.DRAINING
                loop.drain(self._deadline)
            self._state = ServedModel(state, engine.name, slots=bounds.slots, version=self.version)
            self._usable.set()
        self._changed()
        log.info("model.ready", model=self.model.name, engine=engine.name)
        return feeder, loop

    def _claim(self, limit: int, *, suspects: bool = False) -> Sequence[Job]:
        back: list[Job] = []
        if suspects:
            jobs, back = self._claims.take_suspects(limit)
        else:
            jobs = self._claims.take(limit)
        for job in back:
            self._finisher.put(
                Finished(job, partial(Outcome, lease=job.lease, event=Event.RELEASE))
            )
        if self._adaptation is not None:
            self._adaptation.claimed([*jobs, *back])
        self._meter.claimed(jobs)
        return jobs

    def _room(self, held: int) -> int:
        """How many more jobs may be claimed, beside `held`."""
        if self._stuck or not self._heard_of():
            return 0
        return self._state.slots + MOST_UNCOMMITTED - held

    def _prepare(self, engine: Engine, job: Job) -> Row | None:
        try:
            return prepare(job, self.model, engine)
        except Exception as error:  # whatever a tokenizer stumbles over is this job's affair alone
            if not isinstance(error, InvalidRequest):
                log.exception("prepare.failed", job=job.id)
            self._finisher.put(Finished(job, partial(self._failed, job, error)))
            return None

    def _leave(self, row: Row, end: End) -> None:
        self._meter.left(end)
        if self._adaptation is not None:
            self._adaptation.left(row, succeeded=end is Event.SUCCEED)
        if isinstance(end, Event):
            outcome = partial(row.outcome, end)
        else:
            outcome = partial(self._failed, row.job, end)
        self._finisher.put(Finished(row.job, outcome))

    def _failed(self, job: Job, error: Exception) -> Outcome:
        return self._retry.outcome(job, error, random.random())  # noqa: S311 - spreads load

    def _settled(self, jobs: Sequence[Job]) -> None:
        self._claims.settle(jobs)
        if self._feeder is not None:
            self._feeder.look_again()
        if self._adaptation is not None:
            self._adaptation.gone(jobs)


def _probe(engine: Engine) -> None:
    """See whether an engine without rows can run.

    Raises:
        ModelUnavailable: it cannot.
    """
    try:
        try_out(engine)
    except EngineError as error:
        raise ModelUnavailable(f"its health check failed: {error}") from error
