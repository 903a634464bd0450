"""What a store promises about attempts that come after a failed one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_jobs.job import BulkState, Ended, Job, JobError, NewJob, SamplingParams
from nexus_jobs.states import Event, State
from tests.contract.stores import (
    ERROR,
    RESULT,
    Store,
    claim,
    eventually,
    finish,
    new_bulk,
    new_job,
    outcome,
    running,
)

SLACK = tuple(float(priority) for priority in range(10))


def stored(store: Store, job: Job | NewJob) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def ended(store: Store, event: Event, **fields: object) -> Job:
    """A job whose only attempt so far has ended so."""
    job = running(store, **fields)
    finish(store, [job], event)
    return stored(store, job)


def test_a_delayed_attempt_waits_until_it_may_run(store: Store) -> None:
    job = running(store)
    store.finish([outcome(job, Event.REQUEUE, delay=0.3)])
    assert (claim(store), store.backlog(["m"], 9)) == ([], {})
    (again,) = eventually(lambda: claim(store))
    assert (again.id, again.attempt) == (job.id, 2)
    assert again.run_after is not None
    assert again.run_after <= (again.started_at or 0.0)


def test_a_delayed_job_does_not_hold_up_the_others(store: Store) -> None:
    finish(store, [running(store)], Event.REQUEUE, delay=60.0)
    (other,) = store.add([new_job(slack=100.0)])
    assert [job.id for job in claim(store, 5)] == [other.id]


def test_a_suspect_is_claimed_only_by_those_who_ask_for_suspects(store: Store) -> None:
    job = running(store)
    finish(store, [job], Event.REQUEUE, suspect=True)
    (other,) = store.add([new_job()])
    assert stored(store, job).suspect
    assert [job.id for job in claim(store, 5)] == [other.id]
    assert claim(store, 5) == []
    (again,) = claim(store, 5, suspects=True)
    assert (again.id, again.suspect) == (job.id, True)


def test_nobody_is_a_suspect_without_a_reason(store: Store) -> None:
    finish(store, [running(store)], Event.REQUEUE)
    assert claim(store, 5, suspects=True) == []
    assert len(claim(store, 5)) == 1


def test_a_suspect_that_is_handed_back_stays_one(store: Store) -> None:
    job = running(store)
    finish(store, [job], Event.REQUEUE, suspect=True)
    (again,) = claim(store, suspects=True)
    finish(store, [again], Event.RELEASE)
    waiting = stored(store, job)
    assert (waiting.suspect, waiting.attempt, waiting.error) == (True, 1, ERROR)


def test_the_last_error_is_kept_until_an_attempt_succeeds(store: Store) -> None:
    error = JobError("engine_error", "lost", "EngineError: lost at batch_loop.py:90")
    job = running(store)
    finish(store, [job], Event.REQUEUE, error=error)
    assert stored(store, job).error == error
    finish(store, claim(store), Event.SUCCEED)
    assert (stored(store, job).state, stored(store, job).error) == (State.SUCCEEDED, None)


@pytest.mark.parametrize("event", [Event.FAIL, Event.BURY])
def test_what_failed_or_is_dead_can_be_replayed(store: Store, event: Event) -> None:
    job = ended(store, event, max_attempts=1)
    draft = new_job(id=job.id, max_attempts=2, slack=5.0)
    again = store.replay(draft)
    assert again == stored(store, job)
    assert again is not None
    assert (again.state, again.attempt, again.max_attempts) == (State.QUEUED, 1, 3)
    assert (again.finished_at, again.started_at, again.worker) == (None, None, None)
    assert again.due_at > job.due_at
    assert again.submitted_at == job.submitted_at
    (taken,) = claim(store)
    finish(store, [taken], Event.SUCCEED)
    assert stored(store, job).result == RESULT


def test_a_replay_may_change_the_request(store: Store) -> None:
    job = ended(store, Event.FAIL, fingerprint="old")
    request = replace(
        job.request, prompt="shorter", params=SamplingParams(max_tokens=3), expires_in=60.0
    )
    again = store.replay(NewJob(id=job.id, request=request, slack=0.0, fingerprint="new"))
    assert again == stored(store, job)
    assert again is not None
    assert (again.request, again.fingerprint) == (request, "new")
    assert again.expires_at is not None


@pytest.mark.parametrize("event", [None, Event.SUCCEED, Event.CANCEL])
def test_nothing_else_can_be_replayed(store: Store, event: Event | None) -> None:
    job = running(store)
    if event is Event.CANCEL:
        store.cancel(job.id)
    elif event:
        finish(store, [job], event)
    before = stored(store, job)
    assert store.replay(new_job(id=job.id)) is None
    assert store.replay(new_job()) is None
    assert stored(store, job) == before


def test_an_attempt_from_before_a_replay_cannot_finish(store: Store) -> None:
    lost = running(store, max_attempts=1, lease_seconds=0.01)
    eventually(store.requeue_lapsed)
    assert store.replay(new_job(id=lost.id)) is not None
    (again,) = claim(store, suspects=True)
    assert store.finish([outcome(lost, Event.SUCCEED)]) == {}
    assert str(again.lease) != str(lost.lease)


def failed_bulk(store: Store) -> tuple[str, list[Job]]:
    """An accepted bulk of a row that succeeded, one that failed, a dead one, one that never ran."""
    bulk = store.add_bulk(new_bulk(total=4))
    wrong = Ended(error=JobError("empty_prompt", "the prompt is empty"))
    births = (None, None, None, wrong)
    store.add(
        [new_job(bulk_id=bulk.id, bulk_index=i, ended=birth) for i, birth in enumerate(births)]
    )
    store.accept_bulk(bulk.id)
    rows = sorted(claim(store, 9), key=lambda job: job.bulk_index or 0)
    for job, event in zip(rows, (Event.SUCCEED, Event.FAIL, Event.BURY), strict=True):
        finish(store, [job], event)
    return bulk.id, rows


def test_a_bulk_replays_what_failed_but_not_what_never_ran(store: Store) -> None:
    bulk_id, (_, failed, dead) = failed_bulk(store)
    assert store.replay_bulk(bulk_id, attempts=3, slack_seconds=SLACK) == {"m": 2}
    states = [job.state for job in store.bulk_rows(bulk_id)]
    assert states == [State.SUCCEEDED, State.QUEUED, State.QUEUED, State.FAILED]
    again = claim(store, 9)
    assert {job.id for job in again} == {failed.id, dead.id}
    assert {(job.attempt, job.max_attempts) for job in again} == {(2, 4)}
    assert all(job.due_at >= failed.due_at + SLACK[job.request.priority] for job in again)
    assert store.replay_bulk(bulk_id, attempts=3, slack_seconds=SLACK) == {}


def test_a_cancelled_bulk_replays_nothing(store: Store) -> None:
    bulk_id, _ = failed_bulk(store)
    store.cancel_bulk(bulk_id, BulkState.CANCELLED)
    assert store.replay_bulk(bulk_id, attempts=3, slack_seconds=SLACK) == {}
    assert store.replay_bulk("none", attempts=3, slack_seconds=SLACK) == {}
