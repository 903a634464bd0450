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
from nexus_jobs.errors import ConfigError, EngineError, InvalidRequest, ModelUnavailable
from nexus_jobs.execution import Row, Settlement, prepare, warm_up
from nexus_jobs.fleet import ModelState, ServedModel
from nexus_jobs.job import Job, Lease, Outcome
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import JobStore
from nexus_jobs.retry import RetryPolicy
from nexus_jobs.states import Event
from workers.adaptation import Adaptation
from workers.batch_loop import BatchLoop, End
from workers.claims import Claims
from workers.feeder import Feeder
from workers.finisher import Finished, Finisher
from workers.threads import vital_thread

log = structlog.get_logger(__name__)

RELOAD_SECONDS = 15.0
"""How long to wait before loading is tried again after it failed."""
MOST_UNCOMMITTED = 1000
"""Jobs that may be here beyond the slots: results that wait for a database that is away."""


class ModelRunner:
    """Loads a model and runs its jobs until drained.

    Three threads: the feeder claims, the loop steps, the finisher commits. Nothing is claimed
    while the worker is not `heard_of`. The public methods may be called from any thread.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        worker: str,
        store: JobStore,
        settlement: Settlement,
        build_engine: Callable[[ModelConfig], Engine],
        settings: Settings,
        heard_of: Callable[[], bool],
        waiting_tickets: int,
    ) -> None:
        self.model = model
        self._heard_of = heard_of
        self._claims = Claims(
            model.name,
            worker=worker,
            store=store,
            lease_seconds=settings.jobs.lease_seconds,
            room=self._room,
        )
        self._build_engine = build_engine
        self._settings = settings
        self._retry = RetryPolicy(
            first=settings.jobs.retry_seconds, longest=settings.jobs.longest_retry_seconds
        )
        self._tickets = threading.BoundedSemaphore(waiting_tickets)
        self._lock = threading.Lock()
        self._state = ServedModel(ModelState.LOADING, slots=model.max_batch_size)
        self._loaded, self._stopping = threading.Event(), threading.Event()
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
            self._loaded.wait(at_most)
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
        running = self._loop.running if self._loop is not None else 0
        return replace(self._state, running=running)

    def drain(self, deadline: float) -> None:
        """Claim no more, and hand back what still runs at `deadline` (monotonic seconds)."""
        with self._lock:
            self._deadline = min(self._deadline, deadline)
            self._stopping.set()
            self._loaded.set()
            if self._loop is not None:
                self._state = replace(self._state, state=ModelState.DRAINING)
                self._loop.drain(self._deadline)

    def join(self) -> None:
        """Wait until all rows are committed or handed back; call `drain` first."""
        self._main.join()

    @property
    def _stuck(self) -> bool:
        return self.stuck_for > self._settings.worker.stuck_seconds

    def _run(self) -> None:
        while (engine := self._load()) is not None:
            try:
                self._serve(engine)
            except ModelUnavailable as error:  # it died; another may live
                log.error("engine.died", model=self.model.name, reason=str(error))
            finally:
                engine.close()

    def _load(self) -> Engine | None:
        while not self._stopping.is_set():
            self._state = replace(self._state, state=ModelState.LOADING)
            try:
                engine = self._build_engine(self.model)
                if self.model.warmup:
                    warm_up(engine)
            except (ModelUnavailable, ConfigError, EngineError) as error:
                log.error("model.failed", model=self.model.name, reason=str(error))
                self._state = replace(self._state, state=ModelState.FAILED, reason=str(error))
                self._stopping.wait(RELOAD_SECONDS)
            else:
                return engine
        return None

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
            longest_run=self._settings.jobs.longest_run_seconds,
        )
        with self._lock:
            self._feeder, self._loop = feeder, loop
            self._state = ServedModel(ModelState.READY, engine.name, slots=bounds.slots)
            if self._stopping.is_set():
                loop.drain(self._deadline)
            self._loaded.set()
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
