"""What each model is asked for and what it costs, as the scheduler sees it from round to round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from nexus_jobs.fleet import ModelState, RegisteredModel, ServedModel, WorkerReport, tokens_per_job
from nexus_jobs.forecast import Forecast
from nexus_jobs.placement import Demand

TOKENS_PER_SECOND: Final = 500.0
"""Assumed until a model has run; what a small model makes on two cores."""
FADING: Final = 0.999
"""By how much the best rate that was seen counts for less each second: half after 12 minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at the platform, on one clock. Mappings are by model."""

    now: float
    registered: Sequence[RegisteredModel]
    reports: Sequence[WorkerReport]
    queued: Mapping[str, int]
    """Jobs that could start now."""
    arrived: Mapping[str, int]
    """Jobs that were submitted since the look before."""

    def served(self, model: str) -> list[ServedModel]:
        return [report.models[model] for report in self.reports if model in report.models]


@dataclass(slots=True)
class _History:
    """What is remembered of a model."""

    arrivals: Forecast = field(default_factory=Forecast)
    rate: float = 0.0
    busy_at: float = -inf
    unserved_since: float | None = None
    """Since when jobs have waited without any worker that had the model ready."""

    def oldest_wait(self, served: Sequence[ServedModel], now: float) -> float:
        """Seconds that jobs have waited, at `now`, when some do."""
        waits = [one.activity.queue_seconds for one in served if one.state is ModelState.READY]
        if waits:
            self.unserved_since = None
            return max(waits)
        if self.unserved_since is None:
            self.unserved_since = now
        return now - self.unserved_since


class Demands:
    """Turns looks at the platform into demands, with what it remembers of earlier ones."""

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}
        self._looked_at: float | None = None

    def observe(self, seen: Seen) -> list[Demand]:
        """What is asked of each registered model now."""
        elapsed = seen.now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = seen.now
        names = [known.name for known in seen.registered]
        self._histories = {name: self._histories.get(name, _History()) for name in names}
        return [self._demand(known, seen, elapsed) for known in seen.registered]

    def _demand(self, known: RegisteredModel, seen: Seen, elapsed: float) -> Demand:
        name, history, served = known.name, self._histories[known.name], seen.served(known.name)
        arrived, queued = seen.arrived.get(name, 0), seen.queued.get(name, 0)
        running = sum(one.running for one in served)
        if elapsed > 0:
            history.arrivals = history.arrivals.observe(arrived, elapsed)
        if arrived or queued or running:
            history.busy_at = seen.now
        seen_rate = max((one.activity.tokens_per_second for one in served), default=0.0)
        history.rate = max(history.rate * FADING**elapsed, seen_rate)
        if not queued:
            history.unserved_since = None
        return Demand(
            model=name,
            queued=queued,
            running=running,
            arrival=history.arrivals.ahead(known.load_seconds),
            tokens_per_job=tokens_per_job(served),
            tokens_per_second=history.rate or TOKENS_PER_SECOND,
            oldest_wait=history.oldest_wait(served, seen.now) if queued else None,
            idle_seconds=seen.now - history.busy_at,
            memory_mb=known.measured.memory_mb if known.measured else 0.0,
            load_seconds=known.load_seconds,
            wanted=known.wanted,
            pinned=_pinned(known, seen.reports),
            min_replicas=known.config.min_workers,
            max_replicas=known.config.max_workers,
        )


def _pinned(known: RegisteredModel, reports: Sequence[WorkerReport]) -> frozenset[str]:
    """The live workers that the model names, with or without their host."""
    names = set(known.config.pinned_to)
    return frozenset(r.id for r in reports if r.id in names or r.id.partition("@")[0] in names)
