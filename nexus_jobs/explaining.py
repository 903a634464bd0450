"""Why a queued job waits, and for how long it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nexus_jobs.fleet import (
    ModelState,
    RegisteredModel,
    ServedModel,
    Wanted,
    WorkerReport,
    tokens_per_job,
)
from nexus_jobs.job import Job


class Reason(StrEnum):
    """What a queued job waits for."""

    STARTING = "starting"
    BACKLOG = "backlog"
    RETRY = "retry"
    SUSPECT = "suspect"
    BREAKER_OPEN = "breaker_open"
    LOADING = "loading"
    NOT_LOADED = "not_loaded"
    FAILED = "failed"
    UNLOADED = "unloaded"
    UNREGISTERED = "unregistered"
    NO_WORKER = "no_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Where a queued job stands. `start_in` is in seconds, None if nobody can tell."""

    position: int
    """How many come before it."""
    reason: Reason
    detail: str
    start_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a queued job's start depends on, at `now` (seconds since the epoch)."""

    now: float
    position: int
    model: RegisteredModel | None
    reports: Sequence[WorkerReport]
    loading_since: Mapping[str, float]
    """When each worker was told to load the model."""
    breaker_open: bool = False
    """The job's route sends the model no jobs at the moment, since the last ones failed."""

    @property
    def served(self) -> list[ServedModel]:
        name = self.model.name if self.model else ""
        return [report.models[name] for report in self.reports if name in report.models]


def explain(job: Job, around: Surroundings) -> Wait:
    """Say what a queued job waits for, and estimate from live rates when it starts."""
    reason, detail, start_in = _cause(job, around)
    held_back = (job.run_after or 0.0) - around.now
    if held_back > 0 and reason in (Reason.STARTING, Reason.BACKLOG, Reason.SUSPECT):
        reason, detail = Reason.RETRY, f"attempt {job.attempt + 1} begins in {held_back:.0f} s"
    if around.breaker_open and reason in (Reason.STARTING, Reason.BACKLOG, Reason.RETRY):
        reason = Reason.BREAKER_OPEN
        detail = (
            f"the last jobs of model {job.request.model!r} failed, and route {job.route!r} sends "
            f"it no more for now; besides: {detail}"
        )
    if start_in is not None:
        start_in = round(max(start_in, held_back, 0.0), 1)
    return Wait(position=around.position, reason=reason, detail=detail, start_in=start_in)


def _cause(job: Job, around: Surroundings) -> tuple[Reason, str, float | None]:
    model = around.model
    if model is None:
        name = job.request.model
        return Reason.UNREGISTERED, f"model {name!r} is not registered any more", None
    if any(one.state is ModelState.READY for one in around.served):
        return _behind(job, around)
    if model.wanted is Wanted.UNLOADED:
        detail = f"model {model.name!r} was unloaded; `nexus models load {model.name}` loads it"
        return Reason.UNLOADED, detail, None
    if not around.reports:
        return Reason.NO_WORKER, "no worker is running", None
    return _not_ready(model, around)


def _not_ready(model: RegisteredModel, around: Surroundings) -> tuple[Reason, str, float | None]:
    states = {one.state for one in around.served}
    if states & {ModelState.LOADING, ModelState.WARMING}:
        since = min(around.loading_since.values(), default=around.now)
        left = since + model.load_seconds - around.now
        if left >= 0:
            detail = f"no worker has the model: loading, about {left:.0f} s more"
            return Reason.LOADING, detail, left
        detail = (
            f"no worker has the model: loading for {around.now - since:.0f} s, where "
            f"{model.load_seconds:.0f} s were expected"
        )
        return Reason.LOADING, detail, None
    failures = [one.reason for one in around.served if one.state is ModelState.FAILED]
    if failures:
        return Reason.FAILED, f"the model could not be loaded: {failures[0]}", None
    if around.loading_since:
        detail = "no worker has the model: a load has been ordered"
        return Reason.LOADING, detail, model.load_seconds
    if _is_too_large(model, around.reports):
        detail = "no worker may hold so much memory as the model took when it was last loaded"
        return Reason.NO_WORKER, detail, None
    return Reason.NOT_LOADED, "no worker has the model: the scheduler will find it a place", None


def _is_too_large(model: RegisteredModel, reports: Sequence[WorkerReport]) -> bool:
    takes = model.measured.memory_mb if model.measured else 0.0
    rooms = [report.memory_mb for report in reports]
    return all(room is not None and room < takes for room in rooms)


def _behind(job: Job, around: Surroundings) -> tuple[Reason, str, float | None]:
    """Some worker has the model: the jobs before this one must start first."""
    ready = [one for one in around.served if one.state is ModelState.READY]
    free = sum(max(0, one.slots - one.running) for one in ready)
    ahead = around.position + 1 - free
    if job.suspect:
        detail = "it ran when its batch or its worker was lost, so it waits for a batch of suspects"
        return Reason.SUSPECT, detail, None
    if ahead <= 0:
        return Reason.STARTING, "a slot is free", 0.0
    rate = sum(one.activity.tokens_per_second for one in ready) / tokens_per_job(ready)
    slots = sum(one.slots for one in ready)
    detail = f"{around.position} jobs come before it, and all {slots} slots are taken"
    return Reason.BACKLOG, detail, ahead / rate if rate else None
