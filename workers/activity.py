"""What a model does on this worker, in figures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nexus_jobs.errors import EngineError
from nexus_jobs.fleet import Activity
from nexus_jobs.job import Job
from nexus_jobs.ports import Clock
from nexus_jobs.states import Event

WINDOW_SECONDS: Final = 5.0
"""What the rates are taken over."""


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    tokens: int
    steps: int
    step_seconds: float


class ActivityMeter:
    """Sums since it was made. Each sum is added to without a lock, by one thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ended = self._failed = 0
        self._tokens = self._steps = 0
        self._step_seconds = self._queue_seconds = 0.0
        self._lock = threading.Lock()
        self._samples = deque([self._sample()])

    def claimed(self, jobs: Sequence[Job]) -> None:
        if jobs and jobs[-1].started_at is not None:
            self._queue_seconds = max(0.0, jobs[-1].started_at - jobs[-1].submitted_at)

    def stepped(self, seconds: float, tokens: int) -> None:
        self._tokens += tokens
        self._steps += 1
        self._step_seconds += seconds

    def left(self, end: Event | Exception) -> None:
        """An attempt is over; what is handed back does not count."""
        if end is not Event.RELEASE:  # which may come from another thread
            self._ended += 1
            self._failed += isinstance(end, EngineError)

    def read(self) -> Activity:
        """The figures now; from any thread."""
        with self._lock:
            now = self._sample()
            while len(self._samples) > 1 and self._samples[1].at <= now.at - WINDOW_SECONDS:
                self._samples.popleft()
            first = self._samples[0]
            self._samples.append(now)
        seconds, steps = now.at - first.at, now.steps - first.steps
        step_seconds = now.step_seconds - first.step_seconds
        return Activity(
            ended=self._ended,
            failed=self._failed,
            tokens=now.tokens,
            tokens_per_second=(now.tokens - first.tokens) / seconds if seconds else 0.0,
            step_ms=1000 * step_seconds / steps if steps else 0.0,
            queue_seconds=self._queue_seconds,
        )

    def _sample(self) -> _Sample:
        return _Sample(self._clock(), self._tokens, self._steps, self._step_seconds)
