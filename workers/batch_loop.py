"""Continuous batching: rows join and leave one model's batch while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import structlog

from nexus_jobs import telemetry
from nexus_jobs.batching import RowLimit
from nexus_jobs.engine import Engine, Progress
from nexus_jobs.errors import EngineError, ModelUnavailable, OutOfMemory, RanTooLong
from nexus_jobs.execution import Row
from nexus_jobs.job import Lease
from nexus_jobs.ports import Clock
from nexus_jobs.states import Event
from workers.feeder import Feeder

log = structlog.get_logger(__name__)

End = Event | Exception
"""How an attempt ends: SUCCEED, RELEASE, or the error that it met."""
Leave = Callable[[Row, End], None]


class BatchLoop:
    """Owns the engine; everything that touches it happens on the thread that calls `run`.

    Rows come from the feeder and leave through `leave`, which must not block; a row that is not
    `wanted` any more when its turn comes does not join. `stepped` is told how many rows made how
    many tokens in how many seconds. When no row has run for `probe_seconds`, `probe` sees whether
    the engine still can. Other threads may only call `evict` and `drain`.
    """

    def __init__(
        self,
        *,
        model: str,
        engine: Engine,
        feeder: Feeder,
        wanted: Callable[[Lease], bool],
        leave: Leave,
        limit: RowLimit,
        stepped: Callable[[int, int, float], None],
        probe: Callable[[], None],
        probe_seconds: float,
        longest_run: float,
        clock: Clock = time.monotonic,
    ) -> None:
        self._engine = engine
        self._feeder = feeder
        self._wanted = wanted
        self._leave = leave
        self._limit = limit
        self._stepped = stepped
        self._probe = probe
        self._probe_seconds = probe_seconds
        self._longest_run = longest_run
        self.healthy_at: float | None = None
        """When it last generated something, in seconds since the epoch."""
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()
        self._to_evict: set[Lease] = set()
        self._deadline = float("inf")
        self._progressed_at = clock()
        self._probing = False
        self._step_seconds = telemetry.step_seconds.labels(model)
        self._batch_rows = telemetry.batch_rows.labels(model)

    @property
    def running(self) -> int:
        """Rows in the batch now."""
        return len(self._rows)

    @property
    def stuck_for(self) -> float:
        """Seconds since the batch last got on; 0 if there is nothing to do."""
        busy = self._rows or self._probing
        return self._clock() - self._progressed_at if busy else 0.0

    def run(self) -> None:
        """Join, step, leave, until drained.

        Raises:
            ModelUnavailable: the engine has died or does not work; its rows are handed back.
        """
        try:
            while (self._rows or self._await_rows()) and self._clock() < self._deadline:
                self._advance()
        except ModelUnavailable:
            self._let_go(self._rows.values(), Event.RELEASE)
            raise
        self._let_go(self._rows.values(), Event.RELEASE)

    def evict(self, leases: Iterable[Lease]) -> None:
        """Drop the rows under these leases before the next step."""
        with self._lock:
            self._to_evict.update(leases)

    def drain(self, deadline: float) -> None:
        """Claim no more rows; hand back those that are not done at `deadline`."""
        self._deadline = deadline
        self._feeder.stop()

    def _advance(self) -> None:
        self._progressed_at = now = self._clock()
        taken = self._take()
        self._evict()
        self._end_long_runs(now)
        self._join(taken)
        if self._rows:
            self._step(now)

    def _await_rows(self) -> bool:
        """Whether there are more rows to come; meanwhile the engine is probed."""
        while not self._feeder.wait(self._progressed_at + self._probe_seconds - self._clock()):
            if self._feeder.stopped:
                return False
            self._progressed_at, self._probing = self._clock(), True
            try:
                self._probe()
            finally:
                self._probing = False
            self.healthy_at = time.time()
        return True

    def _take(self) -> list[Row]:
        """The rows that wait, and those that come while the engine is busy anyway."""
        room = self._engine.slots - len(self._rows)
        return self._feeder.take(room, self._engine.spare_seconds)

    def _join(self, taken: Sequence[Row]) -> None:
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

    def _step(self, started: float) -> None:
        """One step; the joining since `started` belongs to it, as the engine may run meanwhile."""
        try:
            steps = self._engine.step()
        except EngineError as error:
            self._fail(list(self._rows.values()), error)
            return
        now, rows = self._clock(), len(self._rows)
        self._limit.stepped(rows)
        self._stepped(rows, sum(len(progress.token_ids) for progress in steps), now - started)
        self._hand_on(steps, now)
        # nobody's answer waits for what follows
        self._batch_rows.observe(rows)
        self._step_seconds.observe(now - started)
        self.healthy_at = time.time()

    def _hand_on(self, steps: Sequence[Progress], now: float) -> None:
        """Give the rows what they have made; those that are done leave."""
        done = []
        for progress in steps:
            row = self._rows[progress.sequence_id]
            if progress.error is not None:
                self._let_go([row], progress.error)
            elif row.advance(progress, now):
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

    def _end_long_runs(self, now: float) -> None:
        """End the rows that run longer than any may; those that joined first stand first."""
        since = now - self._longest_run
        rows = list(takewhile(lambda row: row.joined_at < since, self._rows.values()))
        for row in rows:
            self._engine.evict(row.id)
        self._let_go(rows, RanTooLong(f"an attempt may take {self._longest_run:g} s"))

    def _fail(self, rows: Sequence[Row], error: EngineError) -> None:
        """What is left of a lost batch runs again; if it had too many rows, in a smaller one.

        Nobody is to blame for the size of a batch, so that then no attempt counts.
        """
        tried = len(self._rows)
        if isinstance(error, OutOfMemory) and tried > 1:
            self._limit.exceeded_by(tried)
            log.warning("batch.halved", rows=tried, limit=self._limit.rows, reason=str(error))
            self._let_go(rows, Event.RELEASE)
        else:
            log.error("engine.failed", rows=len(rows), reason=str(error))
            self._let_go(rows, error)

    def _let_go(self, rows: Iterable[Row], end: End) -> None:
        leaving = list(rows)
        for row in leaving:
            del self._rows[row.id]
            self._leave(row, end)
        if leaving:
            self._feeder.free(len(leaving))
