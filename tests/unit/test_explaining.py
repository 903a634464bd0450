"""What a queued job is said to wait for."""

from dataclasses import replace

import pytest

from nexus_jobs.explaining import Reason, Surroundings, explain
from nexus_jobs.fleet import (
    Activity,
    Measured,
    ModelState,
    RegisteredModel,
    ServedModel,
    Wanted,
    WorkerReport,
)
from nexus_jobs.job import Job, Request
from nexus_jobs.models import ModelConfig
from nexus_jobs.states import State

MODEL = RegisteredModel(
    config=ModelConfig(name="m"), measured=Measured(load_seconds=20, memory_mb=100)
)
BUSY = ServedModel(
    ModelState.READY,
    running=4,
    slots=4,
    activity=Activity(ended=10, tokens=200, tokens_per_second=40),
)
JOB = Job(
    id="1",
    request=Request(model="m", prompt="x"),
    state=State.QUEUED,
    attempt=0,
    max_attempts=3,
    submitted_at=0.0,
    due_at=0.0,
)


def around(*served: ServedModel, position=0, model=MODEL, loading=None) -> Surroundings:
    reports = [
        WorkerReport(id=f"w{i}", host="h", pid=i, device="cpu", models={"m": one})
        for i, one in enumerate(served)
    ]
    return Surroundings(
        now=1000.0, position=position, model=model, reports=reports, loading_since=loading or {}
    )


def test_behind_a_backlog_the_start_follows_from_the_jobs_before_it_and_the_live_rate():
    wait = explain(JOB, around(BUSY, BUSY, position=7))
    assert (wait.reason, wait.position) == (Reason.BACKLOG, 7)
    assert wait.start_in == pytest.approx(8 / (80 / 20))


def test_free_slots_are_for_those_at_the_front():
    idle = replace(BUSY, running=2)
    assert explain(JOB, around(idle, position=1)).reason is Reason.STARTING
    assert explain(JOB, around(idle, position=1)).start_in == 0
    assert explain(JOB, around(idle, position=2)).reason is Reason.BACKLOG


def test_nobody_can_tell_how_long_a_backlog_lasts_that_does_not_move():
    still = replace(BUSY, activity=Activity())
    assert explain(JOB, around(still, position=2)).start_in is None


def test_a_route_that_lets_nothing_pass_is_told_with_what_the_job_waits_for_beside_it():
    sent = replace(JOB, route="chat")
    wait = explain(sent, replace(around(BUSY, position=7), breaker_open=True))
    assert wait.reason is Reason.BREAKER_OPEN
    assert wait.start_in == explain(sent, around(BUSY, position=7)).start_in
    assert "route 'chat'" in wait.detail
    assert "7 jobs come before it" in wait.detail
    loading = ServedModel(ModelState.LOADING)
    wait = explain(sent, replace(around(loading), breaker_open=True))
    assert wait.reason is Reason.LOADING


def test_a_model_that_loads_takes_as_long_as_it_did_before():
    loading = ServedModel(ModelState.LOADING)
    wait = explain(JOB, around(loading, loading={"w0": 995.0}))
    assert (wait.reason, wait.start_in) == (Reason.LOADING, 15)
    overdue = explain(JOB, around(loading, loading={"w0": 900.0}))
    assert (overdue.reason, overdue.start_in) == (Reason.LOADING, None)
    assert "loading for 100 s, where 20 s were expected" in overdue.detail
    other = WorkerReport(id="w", host="h", pid=1, device="cpu")
    ordered = replace(around(loading={"w": 1000.0}), reports=[other])
    assert explain(JOB, ordered).reason is Reason.LOADING


@pytest.mark.parametrize(
    ("surroundings", "reason", "word"),
    [
        (around(BUSY, model=None), Reason.UNREGISTERED, "'m'"),
        (around(model=replace(MODEL, wanted=Wanted.UNLOADED)), Reason.UNLOADED, "load m"),
        (around(), Reason.NO_WORKER, "no worker"),
        (around(ServedModel(ModelState.FAILED, reason="corrupt")), Reason.FAILED, "corrupt"),
        (around(ServedModel(ModelState.DRAINING)), Reason.NOT_LOADED, "no worker has the model"),
    ],
)
def test_what_keeps_it_from_starting_is_named(surroundings, reason, word):
    wait = explain(JOB, surroundings)
    assert (wait.reason, wait.start_in) == (reason, None)
    assert word in wait.detail


def test_a_model_that_is_too_large_for_every_worker_says_so():
    small, unbounded = (
        WorkerReport(id=f"w{mb}", host="h", pid=1, device="cpu", memory_mb=mb)
        for mb in (99.0, None)
    )
    bare = replace(around(), reports=[small, small])
    assert explain(JOB, bare).reason is Reason.NO_WORKER
    assert "memory" in explain(JOB, bare).detail
    roomy = replace(bare, reports=[small, unbounded])
    assert explain(JOB, roomy).reason is Reason.NOT_LOADED


def test_an_attempt_that_is_held_back_says_so():
    wait = explain(replace(JOB, run_after=1012.0, attempt=1), around(replace(BUSY, running=0)))
    assert (wait.reason, wait.start_in) == (Reason.RETRY, 12)
    assert "attempt 2" in wait.detail


def test_a_suspect_that_is_held_back_rests_first():
    suspect = replace(JOB, suspect=True, run_after=1012.0, attempt=1)
    wait = explain(suspect, around(BUSY))
    assert (wait.reason, wait.detail) == (Reason.RETRY, "attempt 2 begins in 12 s")


def test_a_suspect_waits_for_a_batch_of_its_own():
    assert explain(replace(JOB, suspect=True), around(BUSY)).reason is Reason.SUSPECT
