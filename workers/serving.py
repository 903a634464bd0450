"""The jobs of one model on one engine, from claim to commit, and the threads that carry them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy, RowLimit
from nexus_jobs.config import Settings
from nexus_jobs.engine import Engine
from nexus_jobs.errors import EngineError, InvalidRequest, ModelUnavailable
from nexus_jobs.execution import Row, Settlement, prepare, try_out
from nexus_jobs.fleet import Activity
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
from workers.threads import vital_thread
from workers.tickets import LetGo

log = structlog.get_logger(__name__)

MOST_UNCOMMITTED = 1000
"""Jobs that may be here beyond the slots: results that wait for a database that is away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What the models of a worker share. Nothing is claimed while it is not `heard_of`."""

    worker: str
    settings: Settings
    store: JobStore
    settlement: Settlement
    heard_of: Callable[[], bool]


class Serving:
    """Runs jobs on an engine until drained.

    Three threads: the feeder claims, the loop steps, the finisher commits. The public methods may
    be called from any thread.
    """

    def __init__(self, model: ModelConfig, engine: Engine, place: Workplace) -> None:
        self._model = model
        self._engine = engine
        self._place = place
        jobs = place.settings.jobs
        self._retry = RetryPolicy(
            first=jobs.retry_seconds,
            longest=jobs.longest_retry_seconds,
            attempts=jobs.max_attempts,
        )
        self._meter = ActivityMeter(time.monotonic)
        self._deadline, self._awake_since = float("inf"), 0.0
        self._claims = Claims(
            model.name,
            worker=place.worker,
            store=place.store,
            lease_seconds=jobs.lease_seconds,
            room=self._room,
        )
        self._finisher = Finisher(place.settlement, self._settled, self._failed)
        bounds = BatchPolicy(
            slots=engine.slots,
            max_wait=model.max_wait_ms / 1000,
            max_join_tokens=None if engine.bounds_prefill else model.max_batch_tokens,
        )
        self._adaptation: Adaptation | None = None
        if model.target_latency_ms is not None:
            controller = AdaptiveBatching(bounds, model.target_latency_ms / 1000)
            self._adaptation = Adaptation(controller, time.monotonic)
        wish = self._adaptation.policy if self._adaptation else lambda: bounds
        limit = RowLimit(bounds.slots)
        self._feeder = Feeder(
            policy=lambda: limit.bound(wish()),
            claim=self._claim,
            prepare=self._prepare,
            committed=lambda waiting: len(self._claims) <= waiting,
            poll_seconds=place.settings.worker.poll_seconds,
            clock=time.monotonic,
        )
        self._loop = BatchLoop(
            model=model.name,
            engine=engine,
            feeder=self._feeder,
            wanted=self._claims.__contains__,
            leave=self._leave,
            limit=limit,
            stepped=self._stepped,
            probe=self._probe,
            probe_seconds=model.health_check_interval,
            longest_run=jobs.longest_run_seconds,
        )

    def run(self) -> None:
        """Run jobs until drained; then all are committed or handed back.

        Raises:
            ModelUnavailable: the engine has died, and all jobs are handed back.
        """
        feeding = vital_thread(f"feeder {self._model.name}", self._feeder.run)
        finishing = vital_thread(f"finisher {self._model.name}", self._finisher.run)
        feeding.start()
        finishing.start()
        try:
            self._loop.run()
        finally:
            self._feeder.stop()
            feeding.join()
            for row in self._feeder.leftovers():
                self._leave(row, Event.RELEASE)
            self._finisher.stop(give_up_at=self._deadline)
            finishing.join()

    def announce(self, count: int, let_go: LetGo) -> bool:
        """A ticket tells of so many new jobs; whether it has to wait for them."""
        return self._feeder.announce(count, let_go)

    def drain(self, deadline: float) -> None:
        """Claim no more, and hand back what still runs at `deadline` (monotonic seconds)."""
        self._deadline = deadline
        self._loop.drain(deadline)

    @property
    def running(self) -> int:
        """Rows in the batch now."""
        return self._loop.running

    @property
    def healthy_at(self) -> float | None:
        """When the engine last generated something for a job or a probe."""
        return self._loop.healthy_at

    def activity(self) -> Activity:
        return self._meter.read()

    @property
    def stuck_for(self) -> float:
        """Seconds since the batch last got on; 0 if it has nothing to do."""
        return min(self._loop.stuck_for, time.monotonic() - self._awake_since)

    def resume(self) -> None:
        """The process was stopped for a while, so the batch is not stuck."""
        self._awake_since = time.monotonic()

    def leases(self) -> list[Lease]:
        """The leases of all jobs that are here and wanted, from claim to commit.

        None while the batch is stuck, so that they lapse.
        """
        return [] if self._stuck else self._claims.leases()

    def evict(self, lost: Callable[[Lease], bool]) -> None:
        """Drop the jobs that were cancelled or whose lease is lost."""
        gone = self._claims.lose(lost)
        if gone:
            self._loop.evict(gone)
            for row in self._feeder.drop_suspects(gone):
                self._leave(row, Event.RELEASE)

    @property
    def _stuck(self) -> bool:
        return self.stuck_for > self._place.settings.worker.stuck_seconds

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
        if self._stuck or not self._place.heard_of():
            return 0
        return self._engine.slots + MOST_UNCOMMITTED - held

    def _prepare(self, job: Job) -> Row | None:
        try:
            return prepare(job, self._model, self._engine)
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
        self._feeder.look_again()
        if self._adaptation is not None:
            self._adaptation.gone(jobs)

    def _stepped(self, rows: int, tokens: int, seconds: float) -> None:
        self._meter.stepped(seconds, tokens)
        if self._adaptation is not None:
            self._adaptation.stepped(rows, seconds)

    def _probe(self) -> None:
        """See whether the engine can run, while it has no rows.

        Raises:
            ModelUnavailable: it cannot.
        """
        try:
            try_out(self._engine)
        except EngineError as error:
            raise ModelUnavailable(f"its health check failed: {error}") from error
