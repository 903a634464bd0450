"""What is known of the models that routes choose among: a book that is kept, without a clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from nexus_jobs.job import SamplingParams
from nexus_jobs.ports import Ending
from nexus_jobs.route import Route
from nexus_jobs.routing import Health, PeakEwma, TargetState, verdict

REMEMBERED_JOBS: Final = 50_000
REMEMBERED_SECONDS: Final = 600.0
"""A job of which nothing was heard for so long does not count as outstanding any more."""


@dataclass(frozen=True, slots=True)
class _Sent:
    model: str
    tokens: int
    at: float
    probes: bool


@dataclass(slots=True)
class _Entry:
    """What is known of one model."""

    health: Health = field(default_factory=Health)
    latency: PeakEwma = field(default_factory=PeakEwma)
    outstanding: int = 0
    tokens: int = 0
    """That the outstanding jobs may generate."""

    def backlog_tokens(self, waiting: int) -> float:
        """Those of all jobs that wait, as if they were like the ones that were sent from here."""
        if not self.outstanding:
            return float(waiting * SamplingParams().max_tokens)
        return max(waiting, self.outstanding) * self.tokens / self.outstanding


class Targets:
    """Jobs that were sent to models, and how jobs of theirs ended. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._sent: dict[str, _Sent] = {}  # in the order of their times
        self.chosen: Counter[tuple[str, str]] = Counter()
        """How often each route has chosen each model."""

    def send(self, route: Route, model: str, job_id: str, tokens: int, now: float) -> None:
        """A job of at most so many tokens goes to a model; as a probe, if that is half open."""
        self._release(job_id)  # it may be sent again before anybody heard how it ended
        entry = self._entry(model)
        health = entry.health.chosen(route, now)
        self._sent[job_id] = _Sent(model, tokens, now, probes=health is not entry.health)
        entry.health = health
        entry.outstanding += 1
        entry.tokens += tokens
        self.chosen[route.name, model] += 1
        self._let_go(now)

    def withdraw(self, job_id: str) -> None:
        """The job is not going to run after all."""
        self._release(job_id)

    def hear(self, job_id: str, ending: Ending | None, now: float) -> None:
        """A job has ended, here or elsewhere; None if nobody knows how."""
        sent = self._release(job_id)
        speaks = None if ending is None else verdict(ending)
        if ending is None or speaks is None:
            return
        entry = self._entry(ending.model)
        entry.health = entry.health.after(now, succeeded=speaks)
        # rows of bulks tell no result: they wait as long as they must
        if sent is not None and ending.result is not None:
            entry.latency = entry.latency.after(now - sent.at, now)

    def state(self, model: str, now: float, *, reachable: bool, waiting: int) -> TargetState:
        """How a model stands that is reachable or not, and for which so many jobs wait."""
        entry = self._entries.get(model) or _Entry()
        return TargetState(
            reachable=reachable,
            health=entry.health,
            outstanding=entry.outstanding,
            latency=entry.latency.read(now),
            backlog_tokens=entry.backlog_tokens(waiting),
        )

    def _entry(self, model: str) -> _Entry:
        return self._entries.setdefault(model, _Entry())

    def _release(self, job_id: str) -> _Sent | None:
        sent = self._sent.pop(job_id, None)
        if sent is not None:
            entry = self._entries[sent.model]
            entry.outstanding -= 1
            entry.tokens -= sent.tokens
            if sent.probes:
                entry.health = replace(entry.health, probed_at=None)
        return sent

    def _let_go(self, now: float) -> None:
        oldest = next(iter(self._sent))
        if len(self._sent) > REMEMBERED_JOBS or self._sent[oldest].at < now - REMEMBERED_SECONDS:
            self._release(oldest)
