"""A real worker on the simulated engine, to which jobs come as they do in simulated time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from loadtests.batching_simulation import Outcome, Phase, SimulatedJob, arrivals
from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.bootstrap import connect_memory
from nexus_jobs.config import Settings
from nexus_jobs.engine import Progress
from nexus_jobs.job import Bulk, BulkState, NewJob, Request, SamplingParams
from nexus_jobs.models import ModelConfig
from workers.device import Device

TICKET_JOBS: Final = 32
TICKETS_AT_A_TIME: Final = 2
"""As many as a worker of one model has threads for."""


class CountingEngine(SimulatedEngine):
    """Counts its tokens, those of unfinished rows too."""

    produced = 0

    def step(self) -> list[Progress]:
        steps = super().step()
        self.produced += len(steps)
        return steps


class LiveWorker:
    """Feeder, batch loop and finisher as they are; store, tickets and signals in memory."""

    def __init__(self, model: ModelConfig) -> None:
        settings = Settings.model_validate({"worker": {"grace_seconds": 0.0}})
        platform = connect_memory([model], settings)
        self._model = model.name
        self._store = platform.store
        self._engine = CountingEngine(model.simulated, model.max_batch_size, 2048)
        self._tickets = ThreadPoolExecutor(TICKETS_AT_A_TIME)
        self._device = Device(
            platform,
            name="live",
            fixed=[model.name],
            build_engine=lambda _: self._engine,
            waiting_tickets=TICKETS_AT_A_TIME,
            subscribe=lambda _: None,
        )

    def run(self, phases: Sequence[Phase], seed: int, target: float) -> Outcome:
        """Live through the phases in real time; jobs that have not ended then are late."""
        jobs = arrivals(phases, seed)
        seconds = sum(phase.seconds for phase in phases)
        self._device.start()
        started = time.monotonic()
        for begin in sorted({job.arrived for job in jobs}):
            _sleep_until(started + begin)
            self._submit([(i, job) for i, job in enumerate(jobs) if job.arrived == begin])
        _sleep_until(started + seconds)
        produced = self._engine.produced
        self._device.drain()
        self._device.join()
        self._tickets.shutdown(cancel_futures=True)
        return Outcome(self._in_time(jobs, target), produced / seconds)

    def _submit(self, jobs: Sequence[tuple[int, SimulatedJob]]) -> None:
        rows = [(number, job) for number, job in jobs if not job.awaited]
        if rows:
            self._store.add_bulk(self._bulk(len(rows)))
        self._store.add([self._new(number, job) for number, job in jobs])
        if rows:
            self._store.accept_bulk("bulk")
        for begin in range(0, len(jobs), TICKET_JOBS):
            count = min(TICKET_JOBS, len(jobs) - begin)
            self._tickets.submit(self._device.credit, self._model, count)

    def _bulk(self, total: int) -> Bulk:
        return Bulk(
            id="bulk",
            model=self._model,
            filename="rows.csv",
            columns=["prompt"],
            total=total,
            state=BulkState.IMPORTING,
            submitted_at=0.0,
        )

    def _new(self, number: int, job: SimulatedJob) -> NewJob:
        return NewJob(
            id=f"{number:06}",
            slack=job.due - job.arrived,
            bulk_id=None if job.awaited else "bulk",
            bulk_index=None if job.awaited else number,
            request=Request(
                model=self._model,
                prompt="word " * job.prompt,
                params=SamplingParams(max_tokens=job.tokens, ignore_eos=True),
                use_cache=False,
            ),
        )

    def _in_time(self, jobs: Sequence[SimulatedJob], target: float) -> float:
        awaited = [f"{number:06}" for number, job in enumerate(jobs) if job.awaited]
        found = self._store.get_many(awaited).values()
        return sum(
            job.finished_at is not None and job.finished_at - job.submitted_at <= target
            for job in found
        ) / len(awaited)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
