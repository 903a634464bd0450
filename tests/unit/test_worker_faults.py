"""What a worker promises when an engine or the database fails it."""

import itertools
import threading
from collections import Counter
from dataclasses import replace

import pytest

from nexus_jobs import batching
from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.engine import Progress
from nexus_jobs.errors import (
    InvalidRequest,
    OutOfMemory,
    StoreUnavailable,
    UpstreamError,
)
from nexus_jobs.job import Outcome
from nexus_jobs.models import SimulatedTimes
from nexus_jobs.ports import Channel
from nexus_jobs.states import Event, State
from tests.e2e.stack import until
from tests.unit.memory_worker import MODEL, engine, slow_engine
from workers import serving

EIGHT = MODEL.model_copy(update={"max_batch_size": 8})
LONG = {"max_tokens": 30, "ignore_eos": True}


class Watched(SimulatedEngine):
    """Notes which jobs are in the batch at each step; each takes a little while."""

    def __init__(self, model, seen, **faults):
        super().__init__(SimulatedTimes(step_ms=1, **faults), model.max_batch_size, 256)
        self._seen = seen

    def step(self):
        self._seen.append({name.partition("/")[0] for name in self._rows} - {"warm-up"})
        return super().step()


def test_a_poisonous_row_fails_alone_and_the_others_succeed(start):
    worker = start(lambda model: engine(model, poison="poison"), EIGHT)
    jobs = worker.ended(worker.add(*["x"] * 3, "some poison", *["x"] * 4))
    assert Counter(job.state for job in jobs) == {State.SUCCEEDED: 7, State.DEAD: 1}
    assert {job.attempt for job in jobs if job.state is State.SUCCEEDED} == {3}
    dead = jobs[3]
    assert (dead.state, dead.attempt, dead.error.code) == (State.DEAD, 3, "engine_error")
    assert "simulated.py" in dead.error.trace


def make_suspects(worker, count, times=1, slack=0.0):
    """Jobs whose batch was lost so many times on another worker."""
    ids = worker.add(*["suspect"] * count, slack=slack, **LONG)
    for time in range(times):
        jobs = worker.store.claim(
            "simulated", count, worker="other", lease_seconds=60, suspects=time > 0
        )
        worker.store.finish(
            [Outcome(lease=job.lease, event=Event.REQUEUE, suspect=True) for job in jobs]
        )
    return ids


def test_suspects_have_the_batch_for_themselves_though_others_wait(start):
    seen, ids = [], []

    def before(worker):
        ids.extend([make_suspects(worker, 3), worker.add(*["x"] * 20, **LONG)])

    worker = start(lambda model: Watched(model, seen), EIGHT, before=before)
    suspects, others = ids
    jobs = worker.ended([*suspects, *others])
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert set(suspects) in seen
    assert all(rows <= set(suspects) for rows in seen if rows & set(suspects))
    assert max(map(len, seen)) == 8


def test_a_suspect_on_its_last_attempt_has_the_batch_for_itself(start):
    seen, suspects = [], []
    worker = start(
        lambda model: Watched(model, seen),
        EIGHT,
        before=lambda worker: suspects.extend(make_suspects(worker, 3, times=2)),
    )
    jobs = worker.ended(suspects)
    assert {(job.state, job.attempt) for job in jobs} == {(State.SUCCEEDED, 3)}
    assert [rows for rows in seen if len(rows) > 1] == []


def test_suspects_with_and_without_a_further_attempt_never_meet(start):
    seen, last, others = [], [], []

    def before(worker):
        last.extend(make_suspects(worker, 2, times=2))
        others.extend(make_suspects(worker, 3, slack=-60.0))  # claimed first

    worker = start(lambda model: Watched(model, seen), EIGHT, before=before)
    jobs = worker.ended([*last, *others])
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert [job.attempt for job in jobs] == [3, 3, 2, 2, 2]
    assert all(rows == {job} for job in last for rows in seen if job in rows)
    assert set(others) in seen


def test_a_suspect_runs_though_the_database_goes_away_before_the_next_is_claimed(start):
    ids = []

    def before(worker):
        ids.extend(make_suspects(worker, 3))
        claim, searches = worker.store.claim, itertools.count(1)

        def away_once(*arguments, suspects=False, **named):
            if suspects and next(searches) == 2:
                raise StoreUnavailable("away")
            return claim(*arguments, suspects=suspects, **named)

        worker.store.claim = away_once

    worker = start(slow_engine, EIGHT, before=before)
    jobs = worker.ended([*ids, *worker.add("x")])
    assert [(job.state, job.attempt) for job in jobs] == [(State.SUCCEEDED, 2)] * 3 + [
        (State.SUCCEEDED, 1)
    ]


def test_a_suspect_waits_for_the_running_batch_and_nobody_joins_before_it(start, monkeypatch):
    monkeypatch.setattr(batching, "BUSY_SECONDS", 0.0)
    seen = []
    worker = start(lambda model: Watched(model, seen), EIGHT)
    running = worker.add(*["x"] * 4, max_tokens=200, ignore_eos=True)
    until(lambda: worker.device._report().models["simulated"].running == 4)
    (suspect,) = make_suspects_while_busy(worker)
    until(lambda: worker.state(suspect) is State.RUNNING)
    late = worker.add("late", **LONG)
    worker.ended([*running, suspect, *late])
    first = next(i for i, rows in enumerate(seen) if suspect in rows)
    assert seen[first] == {suspect}
    assert not any(set(late) & rows for rows in seen[:first])
    assert set(running) <= set().union(*seen[:first])


def test_a_suspect_waits_until_the_results_before_it_are_on_disk(start, monkeypatch):
    back = threading.Event()
    seen, suspects = [], []
    worker = start(
        lambda model: Watched(model, seen),
        EIGHT,
        before=lambda worker: suspects.extend(make_suspects(worker, 2, times=2)),
    )
    finish, kept = worker.store.finish, []

    def finish_late(outcomes):
        back.wait(0.3)
        settled = finish(outcomes)
        kept.extend((lease.job_id, len(seen)) for lease in settled)
        return settled

    monkeypatch.setattr(worker.store, "finish", finish_late)
    worker.ended(suspects)
    first = next(rows for rows in seen if rows)
    begun = next(i for i, rows in enumerate(seen) if rows and rows != first)
    assert dict(kept)[next(iter(first))] <= begun


def make_suspects_while_busy(worker):
    """A suspect of a model that is running: added, claimed and lost under the worker's eyes."""
    with worker.store._lock:
        return make_suspects(worker, 1)


def test_a_suspect_that_is_cancelled_while_it_waits_holds_nobody_up(start, monkeypatch):
    monkeypatch.setattr(batching, "BUSY_SECONDS", 0.0)
    worker = start(slow_engine, EIGHT)
    (endless,) = worker.add("x", max_tokens=250, ignore_eos=True)
    until(lambda: worker.state(endless) is State.RUNNING)
    (suspect,) = make_suspects_while_busy(worker)
    until(lambda: worker.state(suspect) is State.RUNNING)
    worker.store.cancel(suspect)
    worker.platform.signals.send(Channel.CANCELLED, {suspect: None})
    (late,) = worker.ended(worker.add("late"))
    assert late.state is State.SUCCEEDED
    assert worker.state(endless) is State.RUNNING


def test_a_batch_that_does_not_fit_into_memory_is_halved_and_costs_no_attempt(start):
    seen = []
    worker = start(lambda model: Watched(model, seen, memory_rows=3), EIGHT)
    jobs = worker.ended(worker.add(*["x"] * 20, **LONG))
    assert {(job.state, job.attempt) for job in jobs} == {(State.SUCCEEDED, 1)}
    assert max(map(len, seen)) > 3


class NeverFits(SimulatedEngine):
    def step(self):
        if "warm-up/0" not in self._rows:
            self._rows.clear()
            raise OutOfMemory("no memory at all")
        return super().step()


def test_a_row_that_does_not_fit_by_itself_is_dead_in_the_end(start):
    worker = start(lambda model: NeverFits(SimulatedTimes(), model.max_batch_size, 256))
    jobs = worker.ended(worker.add("x", "y"))
    assert {(job.state, job.error.code) for job in jobs} == {(State.DEAD, "out_of_memory")}


def test_a_job_that_runs_longer_than_any_may_fails(start):
    worker = start(slow_engine, longest_run_seconds=0.2)
    endless, short = worker.ended(
        [*worker.add("x", max_tokens=250, ignore_eos=True), *worker.add("y")]
    )
    assert (endless.state, endless.error.code) == (State.FAILED, "ran_too_long")
    assert short.state is State.SUCCEEDED


class Hangs(SimulatedEngine):
    """Does not come back from a step with a row until it is let go."""

    def __init__(self, model):
        super().__init__(SimulatedTimes(), model.max_batch_size, 256)
        self.let_go = threading.Event()

    def step(self):
        if "warm-up/0" not in self._rows:
            self.let_go.wait(20)
        return super().step()


def test_a_stuck_batch_loses_its_leases_and_ends_its_worker(start, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("workers.threads.os._exit", lambda _: ended.set())
    built = []

    def hanging(model):
        built.append(Hangs(model))
        return built[0]

    worker = start(hanging, stuck_seconds=0.2, lease_seconds=0.3)
    (job,) = worker.add("x")
    until(worker.store.requeue_lapsed, timeout=10)
    assert worker.store.get(job).suspect
    assert ended.wait(10)
    (again,) = worker.store.claim("simulated", 1, worker="v", lease_seconds=60, suspects=True)
    built[0].let_go.set()
    worker.device.drain()
    worker.device.join()
    assert worker.store.get(job).lease == again.lease


def test_a_worker_that_was_stopped_as_a_whole_is_not_stuck(start, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr("workers.threads.os._exit", lambda _: ended.set())
    worker = start(slow_engine, stuck_seconds=0.2, lease_seconds=0.3)
    (job,) = worker.add("x", max_tokens=250, ignore_eos=True)
    until(lambda: worker.state(job) is State.RUNNING)
    loop = worker.device._placement.runners["simulated"]._serving._loop
    with monkeypatch.context() as stopped:  # as after SIGSTOP: the heart wakes before the loop
        stopped.setattr(type(loop), "stuck_for", property(lambda _: 100.0))
        worker.device._placement.runners["simulated"].resume()
        worker.device._extend_leases()
    assert {job.state for job in worker.ended([job])} == {State.SUCCEEDED}
    assert not ended.is_set()


class FailsRows(SimulatedEngine):
    """Fails rows by themselves, as a server may that answers each on its own."""

    def __init__(self, model, error):
        super().__init__(SimulatedTimes(), model.max_batch_size, 256)
        self._error = error

    def step(self):
        return [self._judged(progress) for progress in super().step()]

    def _judged(self, progress):
        if self.tokenizer.decode(progress.token_ids).strip() != "bad":
            return progress
        self.evict(progress.sequence_id)
        return Progress(progress.sequence_id, (), error=self._error)


@pytest.mark.parametrize(
    ("error", "state", "attempt", "code"),
    [
        (UpstreamError("500: boom"), State.DEAD, 3, "upstream_error"),
        (InvalidRequest.of("refused_upstream", "400: no"), State.FAILED, 1, "refused_upstream"),
    ],
)
def test_a_row_that_fails_by_itself_leaves_its_batch_alone(start, error, state, attempt, code):
    worker = start(lambda model: FailsRows(model, error), EIGHT)
    bad, *others = worker.ended(worker.add("quite bad", *["all well"] * 7))
    assert (bad.state, bad.attempt, bad.error.code) == (state, attempt, code)
    assert {(job.state, job.attempt) for job in others} == {(State.SUCCEEDED, 1)}


def test_a_claim_that_the_database_forgot_and_gave_again_costs_no_slot(start, monkeypatch):
    worker = start(slow_engine)
    (job,) = worker.add("x", max_tokens=60, ignore_eos=True)
    until(lambda: worker.state(job) is State.RUNNING)
    with worker.store._lock:
        claimed = worker.store._jobs[job]
        forgotten = replace(claimed, state=State.QUEUED, attempt=0, lease_token=None)
        worker.store._jobs[job] = forgotten
        worker.store._enqueue(forgotten)
    (ended,) = worker.ended([job])
    assert (ended.state, ended.attempt) == (State.SUCCEEDED, 1)
    four = worker.add(*["x"] * 4, max_tokens=250, ignore_eos=True)
    until(lambda: all(worker.state(i) is State.RUNNING for i in four))


def test_a_worker_whose_heartbeats_fail_claims_nothing_that_it_could_not_keep(start, monkeypatch):
    worker = start(lease_seconds=0.3)
    report, away = worker.store.report, threading.Event()

    def report_unless_away(said):
        if away.is_set():
            raise StoreUnavailable("away")
        report(said)

    monkeypatch.setattr(worker.store, "report", report_unless_away)
    worker.ended(worker.add("before"))
    away.set()
    until(lambda: not worker.device._is_heard_of())
    polled = threading.Semaphore(0)
    decide = batching.BatchPolicy.decide

    def noted(*arguments):
        polled.release()
        return decide(*arguments)

    monkeypatch.setattr(batching.BatchPolicy, "decide", noted)
    (job,) = worker.add("x")
    assert all(polled.acquire(timeout=10) for _ in range(4))
    assert worker.state(job) is State.QUEUED
    away.clear()
    assert [job.attempt for job in worker.ended([job])] == [1]


def test_results_wait_for_a_database_that_is_away(start, monkeypatch):
    worker = start(slow_engine)
    finish, away = worker.store.finish, threading.Event()
    away.set()

    def finish_unless_away(outcomes):
        if away.is_set():
            raise StoreUnavailable("away")
        return finish(outcomes)

    monkeypatch.setattr(worker.store, "finish", finish_unless_away)
    ids = worker.add(*["x"] * 8)
    until(lambda: all(worker.state(i) is State.RUNNING for i in ids))
    away.clear()
    assert {(job.state, job.attempt) for job in worker.ended(ids)} == {(State.SUCCEEDED, 1)}


def test_a_worker_whose_results_cannot_be_kept_takes_no_more_jobs_than_it_can_hold(
    start, monkeypatch
):
    monkeypatch.setattr(serving, "MOST_UNCOMMITTED", 2)
    worker = start()
    back = threading.Event()
    finish, claim, here = worker.store.finish, worker.store.claim, []

    def finish_when_back(outcomes):
        back.wait(20)
        return finish(outcomes)

    def noted_claim(*arguments, **keywords):
        jobs = claim(*arguments, **keywords)
        here.append(len(worker.device._placement.runners["simulated"].leases()) + len(jobs))
        return jobs

    monkeypatch.setattr(worker.store, "finish", finish_when_back)
    monkeypatch.setattr(worker.store, "claim", noted_claim)
    ids = worker.add(*["x"] * 40)
    until(lambda: here and max(here) >= 6)
    assert max(here) == 6
    back.set()
    assert {job.state for job in worker.ended(ids)} == {State.SUCCEEDED}
