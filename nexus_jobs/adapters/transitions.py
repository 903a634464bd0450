"""What happens to a job's fields when something happens to the job: told once for every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from nexus_jobs.job import BulkState, Cached, Job, JobError, NewJob, Outcome
from nexus_jobs.states import TERMINAL, Event, State, target

LAPSED: Final = JobError("lease_expired", "its worker stopped answering")
"""Why an attempt ended that nobody finished."""

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
        route=new.route,
        shadow_of=new.shadow_of,
        result=ended.result if ended else None,
        error=ended.error if ended else None,
        cached=ended.cached if ended else Cached.NO,
    )


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
    cleared = ("finished_at", "started_at", "worker", "lease_token")
    return {"state": state, **dict.fromkeys(cleared)}


def noted(outcome: Outcome, now: float) -> dict[str, Any]:
    """The fields that tell how an attempt went, beside those of `changes`."""
    if outcome.event is Event.RELEASE:
        return {}
    delayed = outcome.event is Event.REQUEUE and outcome.delay
    return {
        "error": outcome.error,
        "suspect": outcome.suspect,
        "run_after": now + outcome.delay if delayed else None,
    }


def replayed(job: Job, draft: NewJob, now: float) -> Job:
    """The job that a failed or dead one becomes when it is queued again as the draft has it."""
    anew = committed(draft, now)
    return replace(
        job,
        request=draft.request,
        route=draft.route,
        fingerprint=draft.fingerprint,
        max_attempts=job.attempt + draft.max_attempts,
        due_at=anew.due_at,
        expires_at=anew.expires_at,
        run_after=None,
        **changes(Event.REPLAY, now),
    )
