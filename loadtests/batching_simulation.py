"""One worker in simulated time: the real batching policies under a load that changes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Protocol

from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy, Snapshot

SLACK_AWAITED, SLACK_FILLING = 120.0, 900.0
"""Seconds within which a job should start, as configured for priorities 5 and 8."""
NEVER = float("inf")


@dataclass(frozen=True)
class Phase:
    """So many seconds with single jobs at a rate, and a bulk that arrives as they begin."""

    seconds: float
    jobs_per_second: float = 0.0
    bulk_rows: int = 0


@dataclass(frozen=True)
class Times:
    """What the hardware takes, in seconds; `jitter` is the sigma of a lognormal factor."""

    step: Callable[[int], float] = lambda rows: 0.020 + 0.001 * rows
    prefill_per_token: float = 0.0002
    jitter: float = 0.0


@dataclass
class SimulatedJob:
    arrived: float
    tokens: int
    prompt: int
    awaited: bool
    claimed: float = NEVER
    ended: float = NEVER
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.tokens

    @property
    def latency(self) -> float:
        return self.ended - self.arrived

    @property
    def due(self) -> float:
        return self.arrived + (SLACK_AWAITED if self.awaited else SLACK_FILLING)


class Controller(Protocol):
    """What AdaptiveBatching is to a worker."""

    def stepped(self, rows: int, seconds: float) -> None: ...
    def claimed(self, queued: float) -> None: ...
    def served(self, now: float, *, queued: float, ran: float, tokens: int) -> None: ...
    def policy(self, now: float, *, awaited: int, filling: int) -> BatchPolicy: ...


@dataclass
class Fixed:
    """The same bounds always."""

    bounds: BatchPolicy

    def stepped(self, rows: int, seconds: float) -> None: ...
    def claimed(self, queued: float) -> None: ...
    def served(self, now: float, *, queued: float, ran: float, tokens: int) -> None: ...

    def policy(self, now: float, *, awaited: int, filling: int) -> BatchPolicy:  # noqa: ARG002
        return self.bounds


@dataclass(frozen=True)
class Moment:
    """One step: when it ended, its rows, and the bounds it ran under."""

    at: float
    rows: int
    policy: BatchPolicy


def arrivals(
    phases: Sequence[Phase],
    seed: int,
    *,
    awaited_tokens: tuple[int, int] = (8, 64),
    filling_tokens: tuple[int, int] = (8, 128),
    prompt_tokens: tuple[int, int] = (20, 80),
) -> list[SimulatedJob]:
    """The jobs of all phases in order: Poisson arrivals, lengths uniform between the bounds."""
    chance = random.Random(seed)
    jobs: list[SimulatedJob] = []
    begin = 0.0
    for phase in phases:
        for _ in range(phase.bulk_rows):
            tokens = chance.randint(*filling_tokens)
            jobs.append(SimulatedJob(begin, tokens, chance.randint(*prompt_tokens), awaited=False))
        for at in _poisson(chance, begin, begin + phase.seconds, phase.jobs_per_second):
            tokens = chance.randint(*awaited_tokens)
            jobs.append(SimulatedJob(at, tokens, chance.randint(*prompt_tokens), awaited=True))
        begin += phase.seconds
    return jobs


def _poisson(chance: random.Random, begin: float, end: float, rate: float) -> Iterator[float]:
    at = begin + chance.expovariate(rate) if rate else end
    while at < end:
        yield at
        at += chance.expovariate(rate)


class Simulation:
    """Runs jobs as a worker does: claims by due time, joins between steps, leaves when done."""

    def __init__(
        self, jobs: Sequence[SimulatedJob], controller: Controller, times: Times, seed: int = 0
    ) -> None:
        self.moments: list[Moment] = []
        self.idle_waits: list[float] = []
        """How long jobs waited while nothing ran, once for each start."""
        self._coming = deque(jobs)
        self._controller = controller
        self._times = times
        self._chance = random.Random(seed)
        self._now = 0.0
        self._idle_since = 0.0
        self._since: float | None = None
        self._queue: list[tuple[float, int, SimulatedJob]] = []
        self._ready: deque[SimulatedJob] = deque()
        self._rows: list[SimulatedJob] = []

    def run(self, until: float = NEVER) -> None:
        """Go on until nothing is left to do or the time has come."""
        while self._now < until and (self._coming or self._queue or self._ready or self._rows):
            self._arrive()
            wake_at = self._claim()
            joined = self._join()
            if self._rows:
                self._step(joined)
            else:
                coming = self._coming[0].arrived if self._coming else NEVER
                self._now = min(coming, wake_at)

    def _policy(self) -> BatchPolicy:
        held = [*self._rows, *self._ready]
        awaited = sum(job.awaited for job in held)
        return self._controller.policy(self._now, awaited=awaited, filling=len(held) - awaited)

    def _arrive(self) -> None:
        while self._coming and self._coming[0].arrived <= self._now:
            job = self._coming.popleft()
            heappush(self._queue, (job.due, -len(self._coming), job))
            if self._since is None:
                self._since = job.arrived

    def _claim(self) -> float:
        """Claim as often as the policy says so; when it wants to be asked again."""
        while True:
            held = len(self._rows) + len(self._ready)
            seen = Snapshot(
                held=held, expected=len(self._queue), since=self._since, next_poll=NEVER
            )
            decision = self._policy().decide(self._now, seen)
            if not decision.claim or not self._queue:
                return decision.wake_at
            if not held and self._since is not None:
                self.idle_waits.append(self._now - max(self._since, self._idle_since))
            for _ in range(min(decision.claim, len(self._queue))):
                self._take(heappop(self._queue)[2])
            if not self._queue:
                self._since = None

    def _take(self, job: SimulatedJob) -> None:
        job.claimed = self._now
        self._ready.append(job)
        if job.awaited:
            self._controller.claimed(self._now - job.arrived)

    def _join(self) -> int:
        """Let ready rows join; their prompt tokens."""
        count = self._policy().joining(job.prompt for job in self._ready)
        joining = [self._ready.popleft() for _ in range(count)]
        self._rows += joining
        return sum(job.prompt for job in joining)

    def _step(self, joined_tokens: int) -> None:
        rows = len(self._rows)
        seconds = self._times.step(rows) + joined_tokens * self._times.prefill_per_token
        seconds *= self._chance.lognormvariate(0, self._times.jitter)
        self._now += seconds
        self.moments.append(Moment(self._now, rows, self._policy()))
        self._controller.stepped(rows, seconds)
        for job in self._rows:
            job.left -= 1
            if not job.left:
                self._leave(job)
        self._rows = [job for job in self._rows if job.left]
        self._idle_since = self._now

    def _leave(self, job: SimulatedJob) -> None:
        job.ended = self._now
        if job.awaited:
            self._controller.served(
                self._now,
                queued=job.claimed - job.arrived,
                ran=self._now - job.claimed,
                tokens=job.tokens,
            )


@dataclass(frozen=True)
class Outcome:
    """What a setting made of a load."""

    in_time: float
    """Share of the awaited jobs that ended within the target."""
    tokens_per_second: float


def outcome(simulation: Simulation, jobs: Sequence[SimulatedJob], target: float) -> Outcome:
    """Judge a finished run over its whole length; jobs that had not ended in it were late."""
    moments = simulation.moments
    awaited = [job for job in jobs if job.awaited]
    seconds = moments[-1].at
    return Outcome(
        in_time=sum(job.latency <= target for job in awaited) / max(1, len(awaited)),
        tokens_per_second=sum(moment.rows for moment in moments) / seconds,
    )


def adaptive(slots: int, target: float, *, max_wait: float = 0.0) -> AdaptiveBatching:
    return AdaptiveBatching(
        BatchPolicy(slots=slots, max_wait=max_wait, max_join_tokens=2048), target
    )


def fixed(size: int, wait: float = 0.0) -> Fixed:
    return Fixed(BatchPolicy(slots=size, max_wait=wait, max_join_tokens=2048))
