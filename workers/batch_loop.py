"""Continuous batching: rows join and leave one model's batch while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from nexus_jobs import telemetry
from nexus_jobs.errors import EngineError
from nexus_jobs.execution import Row
from nexus_jobs.job import Event, JobError, Lease
from nexus_jobs.ports import Clock, Engine
from workers.feeder import Feeder

log = structlog.get_logger(__name__)

Leave = Callable[[Row, Event, JobError | None], None]


class BatchLoop:
    """Owns the engine; everything that touches it happens on the thread that calls `run`.

    Rows come from the feeder and leave through `leave`, which must not block; a row that is not
    `wanted` any more when its turn comes does not join. Other threads may only call `evict` and
    `drain`.
    """

    def __init__(
        self,
        *,
        model: str,
        engine: Engine,
        feeder: Feeder,
        wanted: Callable[[Lease], bool],
        leave: Leave,
        clock: Clock = time.monotonic,
    ) -> None:
        self._engine = engine
        self._feeder = feeder
        self._wanted = wanted
        self._leave = leave
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()
        self._to_evict: set[Lease] = set()
        self._deadline = float("inf")
        self._step_seconds = telemetry.step_seconds.labels(model)
        self._batch_rows = telemetry.batch_rows.labels(model)

    @property
    def running(self) -> int:
        """Rows in the batch now."""
        return len(self._rows)

    def run(self) -> None:
        """Join, step, leave, until drained."""
        while self._rows or self._feeder.wait():
            self._evict()
            self._join()
            if self._rows:
                self._step()
            if self._clock() >= self._deadline:
                self._let_go(self._rows.values(), Event.RELEASE)

    def evict(self, leases: Iterable[Lease]) -> None:
        """Drop the rows under these leases before the next step."""
        with self._lock:
            self._to_evict.update(leases)

    def drain(self, deadline: float) -> None:
        """Let no more rows join; hand back those still running at `deadline`."""
        self._deadline = deadline
        self._feeder.stop()

    def _join(self) -> None:
        taken = self._feeder.take()
        if not taken:
            return
        now = self._clock()
        for row in taken:
            row.join(now)
        self._rows.update((row.id, row) for row in taken)
        self._let_go([row for row in taken if not self._wanted(row.job.lease)], Event.RELEASE)
        joining = [row for row in taken if row.id in self._rows]
        try:
            self._engine.admit([row.sequence for row in joining])
        except EngineError as error:
            self._fail(joining, error)

    def _step(self) -> None:
        self._batch_rows.observe(len(self._rows))
        started = self._clock()
        try:
            steps = self._engine.step()
        except EngineError as error:
            self._fail(list(self._rows.values()), error)
            return
        now = self._clock()
        self._step_seconds.observe(now - started)
        done = []
        for progress in steps:
            row = self._rows[progress.sequence_id]
            if row.advance(progress, now):
                done.append(row)
                if progress.finish_reason is None:  # a stop string, of which the engine knows not
                    self._engine.evict(row.id)
        self._let_go(done, Event.SUCCEED)

    def _evict(self) -> None:
        with self._lock:
            unwanted, self._to_evict = self._to_evict, set()
        rows = [self._rows[str(lease)] for lease in unwanted if str(lease) in self._rows]
        for row in rows:
            self._engine.evict(row.id)
        # The store knows that they ended, so this outcome will find no lease and change nothing.
        self._let_go(rows, Event.RELEASE)

    def _fail(self, rows: Sequence[Row], error: EngineError) -> None:
        log.error("engine.failed", rows=len(rows), reason=str(error))
        self._let_go(rows, Event.REQUEUE, JobError(error.code, str(error)))

    def _let_go(self, rows: Iterable[Row], event: Event, error: JobError | None = None) -> None:
        leaving = list(rows)
        for row in leaving:
            del self._rows[row.id]
            self._leave(row, event, error)
        if leaving:
            self._feeder.free(len(leaving))
