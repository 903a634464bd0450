"""Tells a model's controller what happens in its batch, from whichever thread it happens on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy
from nexus_jobs.engine import Engine, Progress, TokenSequence
from nexus_jobs.execution import Row
from nexus_jobs.job import Job, Lease
from nexus_jobs.ports import Clock


class ObservedEngine:
    """An engine that tells how long its steps take, and counts each row's tokens."""

    def __init__(self, engine: Engine, stepped: Callable[[int, float], None], clock: Clock) -> None:
        self.name = engine.name
        self.reproducible = engine.reproducible
        self.slots = engine.slots
        self.max_sequence_length = engine.max_sequence_length
        self.bounds_prefill = engine.bounds_prefill
        self.tokenizer = engine.tokenizer
        self.device = engine.device
        self.pid = engine.pid
        self._engine = engine
        self._stepped = stepped
        self._clock = clock
        self._tokens: dict[str, int] = {}
        self._joining = 0.0

    def admit(self, sequences: Sequence[TokenSequence]) -> None:
        started = self._clock()
        self._engine.admit(sequences)
        self._joining += self._clock() - started
        self._tokens.update((sequence.id, 0) for sequence in sequences)

    def step(self) -> list[Progress]:
        started = self._clock()
        steps = self._engine.step()
        self._stepped(len(self._tokens), self._clock() - started + self._joining)
        self._joining = 0.0
        for progress in steps:
            self._tokens[progress.sequence_id] += len(progress.token_ids)
        return steps

    def tokens(self, sequence_id: str) -> int:
        """How many tokens the row had when it left; asked for once."""
        return self._tokens.pop(sequence_id, 0)

    def evict(self, sequence_id: str) -> None:
        self._engine.evict(sequence_id)

    def close(self) -> None:
        self._engine.close()


class Adaptation:
    """Follows each job from its claim until it leaves; the controller has no lock and no clock.

    How long a job queued is the difference of two times on the database's clock, how long it ran of
    two on the worker's. `engine` stands in for the one it was given.
    """

    def __init__(self, controller: AdaptiveBatching, engine: Engine, clock: Clock) -> None:
        self.engine = ObservedEngine(engine, self._stepped, clock)
        self._controller = controller
        self._clock = clock
        self._lock = threading.Lock()
        self._awaited: dict[Lease, float] = {}
        self._filling: set[Lease] = set()

    def policy(self) -> BatchPolicy:
        """The bounds of the batch for now."""
        with self._lock:
            return self._controller.policy(
                self._clock(), awaited=len(self._awaited), filling=len(self._filling)
            )

    def claimed(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            now = self._clock()
            for job in jobs:
                if job.bulk_id is not None:
                    self._filling.add(job.lease)
                else:
                    self._awaited[job.lease] = now
                    self._controller.claimed(_queued(job))

    def left(self, row: Row, *, succeeded: bool) -> None:
        """The row is no longer in the batch; what it was like counts if it succeeded."""
        tokens = self.engine.tokens(row.id)
        with self._lock:
            claimed_at = self._awaited.get(row.job.lease)
            if claimed_at is not None and succeeded:
                now = self._clock()
                self._controller.served(
                    now, queued=_queued(row.job), ran=now - claimed_at, tokens=tokens
                )
        self.gone([row.job])

    def gone(self, jobs: Iterable[Job]) -> None:
        """The jobs are not here any more, whether or not they ever joined the batch."""
        with self._lock:
            for job in jobs:
                self._awaited.pop(job.lease, None)
                self._filling.discard(job.lease)

    def _stepped(self, rows: int, seconds: float) -> None:
        with self._lock:
            self._controller.stepped(rows, seconds)


def _queued(job: Job) -> float:
    return job.started_at - job.submitted_at if job.started_at is not None else 0.0
