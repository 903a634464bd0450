"""What the contract tests say often: jobs to add, outcomes to record, conditions to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import uuid_utils

from nexus_jobs.job import (
    Bulk,
    BulkState,
    FinishReason,
    Job,
    JobError,
    NewJob,
    Outcome,
    Request,
    Result,
)
from nexus_jobs.ports import BulkStore, FleetStore, JobStore, RouteStore, ScheduleStore
from nexus_jobs.states import Event, State

RESULT = Result(
    text="Paris.",
    finish_reason=FinishReason.STOP,
    prompt_tokens=7,
    completion_tokens=3,
    prefill_ms=1.5,
    decode_ms=4.25,
)
ERROR = JobError("engine_error", "the batch was lost")

T = TypeVar("T")


class Store(JobStore, BulkStore, FleetStore, ScheduleStore, RouteStore, Protocol):
    """What each adapter under test implements."""


def new_id() -> str:
    return str(uuid_utils.uuid7())


def new_job(*, model: str = "m", expires_in: float | None = None, **fields: Any) -> NewJob:
    request = Request(model=model, prompt="What is the capital of France?", expires_in=expires_in)
    return NewJob(**{"id": new_id(), "request": request, "slack": 0.0} | fields)


def new_bulk(**fields: Any) -> Bulk:
    values = {"model": "m", "filename": "in.csv", "columns": ["id", "prompt"], "total": 3}
    state = BulkState.IMPORTING
    return Bulk(**{"id": new_id(), "state": state, "submitted_at": 0.0} | values | fields)


def claim(
    store: Store, limit: int = 1, *, lease_seconds: float = 60.0, suspects: bool = False
) -> list[Job]:
    return store.claim("m", limit, worker="w1", lease_seconds=lease_seconds, suspects=suspects)


def outcome(job: Job, event: Event, **fields: Any) -> Outcome:
    """How an attempt ended, with the result or the error that such an end has."""
    if event is Event.SUCCEED:
        fields = {"result": RESULT} | fields
    if event in (Event.FAIL, Event.REQUEUE, Event.BURY):
        fields = {"error": ERROR} | fields
    return Outcome(lease=job.lease, event=event, **fields)


def states_after(store: Store, outcomes: Sequence[Outcome]) -> dict[str, State]:
    """The state that each job is in after its outcome; those whose lease was lost are absent."""
    return {lease.job_id: settled.state for lease, settled in store.finish(outcomes).items()}


def finish(store: Store, jobs: Sequence[Job], event: Event, **fields: Any) -> None:
    settled = store.finish([outcome(job, event, **fields) for job in jobs])
    assert set(settled) == {job.lease for job in jobs}


def running(store: Store, *, lease_seconds: float = 60.0, **fields: Any) -> Job:
    """A job that has been added and claimed."""
    (added,) = store.add([new_job(**fields)])
    (job,) = claim(store, lease_seconds=lease_seconds)
    assert job.id == added.id
    return job


def eventually(condition: Callable[[], T], *, timeout: float = 10.0) -> T:
    """The first true value of the condition."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition has not come true"
        time.sleep(0.002)
    return value
