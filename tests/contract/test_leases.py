"""What a store promises about claims, leases and the ends of jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from nexus_jobs.adapters.transitions import LAPSED
from nexus_jobs.job import Job, Lease
from nexus_jobs.states import TERMINAL, Event, State
from tests.contract.stores import (
    ERROR,
    RESULT,
    Store,
    claim,
    eventually,
    finish,
    new_id,
    new_job,
    outcome,
    running,
    states_after,
)


def stored(store: Store, job: Job) -> Job:
    found = store.get(job.id)
    assert found is not None
    return found


def test_a_claim_takes_what_is_due_first(store: Store) -> None:
    late, soon, later = store.add([new_job(slack=slack) for slack in (60.0, 5.0, 300.0)])
    assert [job.id for job in claim(store, 2)] == [soon.id, late.id]
    assert [job.id for job in claim(store, 2)] == [later.id]


def test_jobs_due_at_the_same_time_are_claimed_by_id(store: Store) -> None:
    added = store.add([new_job() for _ in range(20)][::-1])
    assert [job.id for job in claim(store, 20)] == sorted(job.id for job in added)


def test_a_claim_takes_only_its_model_and_no_more_than_its_limit(store: Store) -> None:
    store.add([new_job(model="other"), *(new_job() for _ in range(3))])
    assert {job.request.model for job in claim(store, 2)} == {"m"}
    assert len(claim(store, 10)) == 1
    assert claim(store, 10) == []


def test_a_claim_starts_the_job_under_a_lease(store: Store) -> None:
    (added,) = store.add([new_job()])
    (job,) = store.claim("m", 1, worker="w7", lease_seconds=60.0)
    assert (job.state, job.attempt, job.worker) == (State.RUNNING, 1, "w7")
    assert job.started_at is not None
    assert job.started_at >= added.submitted_at
    assert job.lease.attempt == 1
    assert stored(store, job) == job
    assert job.request == added.request


def test_no_job_is_claimed_twice_by_threads_at_once(store: Store) -> None:
    ids = {job.id for job in store.add([new_job() for _ in range(200)])}
    start = Barrier(8)

    def work(_: int) -> list[str]:
        start.wait()
        taken: list[str] = []
        while jobs := claim(store, 7):
            taken += [job.id for job in jobs]
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for ids in pool.map(work, range(8)) for job_id in ids]
    assert Counter(taken) == Counter(ids)


def test_a_success_keeps_the_result(store: Store) -> None:
    job = running(store)
    assert states_after(store, [outcome(job, Event.SUCCEED)]) == {job.id: State.SUCCEEDED}
    ended = stored(store, job)
    assert (ended.state, ended.result, ended.error) == (State.SUCCEEDED, RESULT, None)
    assert ended.finished_at is not None
    assert ended.finished_at >= (ended.started_at or 0.0)
    assert ended.worker == "w1"
    assert ended.lease_token is None


def test_a_failure_keeps_the_error(store: Store) -> None:
    job = running(store)
    assert states_after(store, [outcome(job, Event.FAIL)]) == {job.id: State.FAILED}
    ended = stored(store, job)
    assert (ended.state, ended.result, ended.error) == (State.FAILED, None, ERROR)


def test_a_requeued_job_runs_again_and_its_attempt_counts(store: Store) -> None:
    job = running(store)
    assert states_after(store, [outcome(job, Event.REQUEUE)]) == {job.id: State.QUEUED}
    waiting = stored(store, job)
    assert (waiting.started_at, waiting.worker, waiting.lease_token) == (None, None, None)
    assert (waiting.attempt, waiting.due_at) == (1, job.due_at)
    (again,) = claim(store)
    assert (again.id, again.attempt) == (job.id, 2)


def test_a_buried_job_is_dead_and_keeps_the_error(store: Store) -> None:
    job = running(store, max_attempts=1)
    assert states_after(store, [outcome(job, Event.BURY)]) == {job.id: State.DEAD}
    assert stored(store, job).error == ERROR
    assert claim(store) == []


def test_a_released_attempt_does_not_count(store: Store) -> None:
    for _ in range(3):
        job = running(store, max_attempts=1) if not store.backlog(["m"], 9) else claim(store)[0]
        assert states_after(store, [outcome(job, Event.RELEASE)]) == {job.id: State.QUEUED}
        assert stored(store, job).attempt == 0
    assert stored(store, job).started_at is None


def test_a_group_of_outcomes_of_every_kind_is_recorded_at_once(store: Store) -> None:
    store.add([new_job() for _ in range(400)])
    jobs = claim(store, 400)
    kinds = [Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE]
    outcomes = [outcome(job, kinds[i % 4]) for i, job in enumerate(jobs)]
    states = states_after(store, outcomes)
    assert Counter(states.values()) == {
        State.SUCCEEDED: 100,
        State.FAILED: 100,
        State.QUEUED: 200,
    }
    now = store.get_many([job.id for job in jobs])
    assert {job_id: job.state for job_id, job in now.items()} == states
    assert sum(job.result is not None for job in now.values()) == 100


def test_a_finished_job_cannot_be_finished_again(store: Store) -> None:
    job = running(store)
    finish(store, [job], Event.SUCCEED)
    before = stored(store, job)
    for event in (Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE, Event.BURY):
        assert store.finish([outcome(job, event)]) == {}
    assert stored(store, job) == before


def test_of_two_ends_in_one_group_the_first_counts(store: Store) -> None:
    job = running(store)
    twice = [outcome(job, Event.SUCCEED), outcome(job, Event.SUCCEED), outcome(job, Event.FAIL)]
    assert states_after(store, twice) == {job.id: State.SUCCEEDED}
    assert stored(store, job).result == RESULT


def test_a_lost_lease_cannot_finish(store: Store) -> None:
    lost = running(store, lease_seconds=0.01)
    eventually(store.requeue_lapsed)
    assert store.finish([outcome(lost, Event.SUCCEED)]) == {}
    (again,) = claim(store, suspects=True)
    assert store.finish([outcome(lost, Event.SUCCEED)]) == {}
    assert states_after(store, [outcome(again, Event.FAIL)]) == {again.id: State.FAILED}


@pytest.mark.parametrize(
    "forged",
    [
        lambda lease: replace(lease, token="another"),
        lambda lease: replace(lease, attempt=lease.attempt + 1),
        lambda lease: replace(lease, job_id=new_id()),
    ],
    ids=["token", "attempt", "job"],
)
def test_only_the_very_lease_counts(store: Store, forged: Callable[[Lease], Lease]) -> None:
    job = running(store)
    late = replace(outcome(job, Event.SUCCEED), lease=forged(job.lease))
    assert store.finish([late]) == {}
    assert store.heartbeat([forged(job.lease)], lease_seconds=60.0) == set()
    assert stored(store, job) == job


def test_a_lost_lease_does_not_spoil_the_group(store: Store) -> None:
    store.add([new_job() for _ in range(3)])
    first, second, third = claim(store, 3)
    store.cancel(second.id)
    states = states_after(store, [outcome(job, Event.SUCCEED) for job in (first, second, third)])
    assert states == {first.id: State.SUCCEEDED, third.id: State.SUCCEEDED}
    assert stored(store, second).result is None


def test_of_two_attempts_at_a_job_in_one_group_the_one_that_holds_ends_it(store: Store) -> None:
    lapsed, other = running(store, lease_seconds=0.0), running(store)
    assert store.requeue_lapsed() == {lapsed.id: State.QUEUED}
    (again,) = store.claim("m", 1, worker="w2", lease_seconds=60.0, suspects=True)
    late, answer = replace(RESULT, text="late"), replace(RESULT, text="in time")
    settled = store.finish(
        [
            outcome(lapsed, Event.SUCCEED, result=late),
            outcome(again, Event.SUCCEED, result=answer),
            outcome(other, Event.SUCCEED),
        ]
    )
    assert settled.keys() == {again.lease, other.lease}
    assert stored(store, again).result == answer


def test_what_was_noted_of_earlier_attempts_is_gone_after_a_success(store: Store) -> None:
    job = running(store)
    finish(store, [job], Event.REQUEUE, suspect=True)
    (again,) = store.claim("m", 1, worker="w2", lease_seconds=60.0, suspects=True)
    finish(store, [again], Event.SUCCEED)
    ended = stored(store, again)
    assert (ended.suspect, ended.error, ended.run_after) == (False, None, None)


def test_a_heartbeat_keeps_the_lease(store: Store) -> None:
    kept = running(store, lease_seconds=0.01)
    assert store.heartbeat([kept.lease], lease_seconds=60.0) == {kept.lease}
    lapsing = running(store, lease_seconds=0.01)
    assert eventually(store.requeue_lapsed) == {lapsing.id: State.QUEUED}
    assert stored(store, kept).state is State.RUNNING


def test_a_heartbeat_tells_which_leases_are_lost(store: Store) -> None:
    store.add([new_job(), new_job()])
    cancelled, kept = claim(store, 2)
    store.cancel(cancelled.id)
    leases = [cancelled.lease, kept.lease]
    assert store.heartbeat(leases, lease_seconds=60.0) == {kept.lease}
    assert store.heartbeat([], lease_seconds=60.0) == set()


def test_a_lapsed_lease_can_still_finish_until_it_is_taken_back(store: Store) -> None:
    job = running(store, lease_seconds=-1.0)
    assert states_after(store, [outcome(job, Event.SUCCEED)]) == {job.id: State.SUCCEEDED}
    assert store.requeue_lapsed() == {}


def test_a_lapsed_lease_is_queued_again_while_attempts_are_left(store: Store) -> None:
    job = running(store, max_attempts=2, lease_seconds=0.01)
    assert eventually(store.requeue_lapsed) == {job.id: State.QUEUED}
    waiting = stored(store, job)
    assert (waiting.started_at, waiting.worker, waiting.attempt) == (None, None, 1)
    assert (waiting.error, waiting.suspect) == (LAPSED, True)
    (again,) = claim(store, lease_seconds=0.01, suspects=True)
    assert again.attempt == 2
    assert eventually(store.requeue_lapsed) == {job.id: State.DEAD}
    dead = stored(store, job)
    assert (dead.state, dead.error) == (State.DEAD, LAPSED)
    assert dead.finished_at is not None
    assert claim(store) == []


def test_a_lease_that_has_not_lapsed_stays(store: Store) -> None:
    running(store)
    assert store.requeue_lapsed() == {}


def test_a_queued_job_can_be_cancelled(store: Store) -> None:
    (job,) = store.add([new_job()])
    cancelled = store.cancel(job.id)
    assert cancelled == stored(store, job)
    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_at is not None) == (State.CANCELLED, True)
    assert claim(store) == []
    assert store.backlog(["m"], 9) == {}


def test_a_running_job_can_be_cancelled_and_its_late_result_is_dropped(store: Store) -> None:
    job = running(store)
    cancelled = store.cancel(job.id)
    assert cancelled is not None
    assert cancelled.state is State.CANCELLED
    assert store.finish([outcome(job, Event.SUCCEED)]) == {}
    assert stored(store, job) == cancelled


def test_cancelling_an_ended_job_shows_how_it_ended(store: Store) -> None:
    job = running(store)
    finish(store, [job], Event.SUCCEED)
    assert store.cancel(job.id) == stored(store, job)
    assert stored(store, job).result == RESULT


def test_of_a_finish_and_a_cancel_at_once_exactly_one_wins(store: Store) -> None:
    for _ in range(10):
        job = running(store)
        start = Barrier(2)

        def finish_it(job: Job = job, start: Barrier = start) -> bool:
            start.wait()
            return bool(store.finish([outcome(job, Event.SUCCEED)]))

        def cancel_it(job: Job = job, start: Barrier = start) -> bool:
            start.wait()
            shown = store.cancel(job.id)
            return shown is not None and shown.state is State.CANCELLED

        with ThreadPoolExecutor(2) as pool:
            finished, cancelled = pool.submit(finish_it), pool.submit(cancel_it)
        assert finished.result() != cancelled.result()
        ended = stored(store, job)
        assert ended.state is (State.SUCCEEDED if finished.result() else State.CANCELLED)
        assert (ended.result is not None) == finished.result()


def test_an_overdue_job_expires(store: Store) -> None:
    (job,) = store.add([new_job(expires_in=0.01)])
    assert eventually(store.expire_overdue) == [job.id]
    expired = stored(store, job)
    assert (expired.state, expired.finished_at is not None) == (State.EXPIRED, True)
    assert store.expire_overdue() == []


def test_an_overdue_job_is_not_claimed_even_before_it_is_marked(store: Store) -> None:
    overdue, timely = store.add([new_job(expires_in=-1.0), new_job(expires_in=60.0)])
    assert [job.id for job in claim(store, 10)] == [timely.id]
    assert store.expire_overdue() == [overdue.id]


def test_a_job_that_has_started_does_not_expire(store: Store) -> None:
    job = running(store, expires_in=0.05)
    (waiting,) = store.add([new_job(expires_in=0.05)])
    assert eventually(store.expire_overdue) == [waiting.id]
    assert stored(store, job).state is State.RUNNING


def end_in(store: Store, state: State) -> Job:
    """A job that was claimed once, unless it had to expire, and ended in this state."""
    if state is State.EXPIRED:
        (job,) = store.add([new_job(expires_in=-1.0)])
        store.expire_overdue()
        return job
    job = running(store, max_attempts=1)
    if state is State.CANCELLED:
        store.cancel(job.id)
    else:
        ends = {
            State.SUCCEEDED: Event.SUCCEED,
            State.FAILED: Event.FAIL,
            State.DEAD: Event.BURY,
        }
        finish(store, [job], ends[state])
    return job


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_terminal_state_never_changes(store: Store, state: State) -> None:
    job = end_in(store, state)
    ended = stored(store, job)
    assert ended.state is state
    lease = job.lease if job.lease_token else Lease(job.id, 0, "none")
    for event in (Event.SUCCEED, Event.FAIL, Event.REQUEUE, Event.RELEASE):
        store.finish([replace(outcome(replace(job, lease_token="x"), event), lease=lease)])
    store.heartbeat([lease], lease_seconds=-1.0)
    store.cancel(job.id)
    assert claim(store, 10) == claim(store, 10, suspects=True) == []
    assert store.requeue_lapsed() == {}
    assert store.expire_overdue() == []
    assert stored(store, job) == ended
