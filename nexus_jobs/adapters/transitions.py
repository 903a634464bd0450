"""What happens to a job's fields when something happens to the job: told once for every store."""

from __future__ import annotations

from typing import Any, Final

from nexus_jobs.job import (
    TERMINAL,
    BulkState,
    Cached,
    Event,
    Job,
    JobError,
    NewJob,
    Outcome,
    State,
    target,
)

LAPSED: Final = JobError(
    "lease_expired", "its worker stopped answering, and no attempt is left to run it again"
)
"""Why a job is dead whose last attempt nobody finished."""

BULK_SOURCES: Final = {
    BulkState.ACCEPTED: frozenset({BulkState.IMPORTING}),
    BulkState.ABANDONED: frozenset({BulkState.IMPORTING}),
    BulkState.CANCELLED: frozenset({BulkState.IMPORTING, BulkState.ACCEPTED}),
}
"""bulk state -> the states that it may follow"""


def committed(new: NewJob, now: float) -> Job:
    """The job that a new job becomes when it is committed at `now`."""
    ended, expires_in = new.ended, new.request.expires_in
    return Job(
        id=new.id,
        request=new.request,
        state=ended.state if ended else State.QUEUED,
        attempt=0,
        max_attempts=new.max_attempts,
        submitted_at=now,
        due_at=now + new.slack,
        expires_at=None if expires_in is None else now + expires_in,
        finished_at=now if ended else None,
        fingerprint=new.fingerprint,
        bulk_id=new.bulk_id,
        bulk_index=new.bulk_index,
        cells=new.cells,
        result=ended.result if ended else None,
        error=ended.error if ended else None,
        cached=ended.cached if ended else Cached.NO,
    )


def final_event(outcome: Outcome, max_attempts: int) -> Event:
    """What an outcome comes to: a job whose attempts are spent is buried, not queued again."""
    if outcome.event is Event.REQUEUE and outcome.lease.attempt >= max_attempts:
        return Event.BURY
    return outcome.event


def attempt_after(event: Event, attempt: Any) -> Any:
    """The attempts counted so far; one that was handed back unharmed does not count.

    `attempt` is a number, or what stands for one in a statement.
    """
    return attempt - 1 if event is Event.RELEASE else attempt


def changes(event: Event, now: Any) -> dict[str, Any]:
    """The fields that take a new value when `event` takes a job's lease away or ends the job.

    `now` is a time, or what stands for one in a statement.
    """
    state = target(event)
    if state in TERMINAL:
        return {"state": state, "finished_at": now, "lease_token": None}
    return {"state": state, "started_at": None, "worker": None, "lease_token": None}
