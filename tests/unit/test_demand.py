"""What the scheduler concludes from what it sees."""

import pytest

from nexus_jobs.demand import TOKENS_PER_SECOND, Demands, Seen
from nexus_jobs.fleet import (
    LOAD_SECONDS,
    TOKENS_PER_JOB,
    Activity,
    Measured,
    ModelState,
    RegisteredModel,
    ServedModel,
    WorkerReport,
)
from nexus_jobs.models import ModelConfig

MODEL = RegisteredModel(config=ModelConfig(name="m"))
ACTIVE = Activity(ended=10, tokens=400, tokens_per_second=80)


def seen(now, *served, model=MODEL, queued=0, arrived=0) -> Seen:
    reports = [
        WorkerReport(id=f"w{i}@host", host="host", pid=i, device="cpu", models={"m": one})
        for i, one in enumerate(served)
    ]
    return Seen(
        now=now,
        registered=[model],
        reports=reports,
        queued={"m": queued} if queued else {},
        arrived={"m": arrived} if arrived else {},
    )


def test_of_a_model_that_never_ran_the_usual_is_assumed():
    (demand,) = Demands().observe(seen(0.0, queued=3))
    assert (demand.queued, demand.tokens_per_job) == (3, TOKENS_PER_JOB)
    assert (demand.tokens_per_second, demand.load_seconds) == (TOKENS_PER_SECOND, LOAD_SECONDS)


def test_what_was_measured_counts():
    known = RegisteredModel(
        config=ModelConfig(name="m"), measured=Measured(load_seconds=4, memory_mb=150)
    )
    served = ServedModel(ModelState.READY, running=2, slots=4, activity=ACTIVE)
    (demand,) = Demands().observe(seen(0.0, served, served, model=known))
    assert (demand.load_seconds, demand.memory_mb) == (4, 150)
    assert (demand.running, demand.tokens_per_job, demand.tokens_per_second) == (4, 40, 80)


def test_the_best_rate_is_remembered_for_a_while():
    demands, ready = Demands(), ServedModel(ModelState.READY, activity=ACTIVE)
    demands.observe(seen(0.0, ready))
    (soon,) = demands.observe(seen(60.0, ServedModel(ModelState.READY)))
    (late,) = demands.observe(seen(2000.0, ServedModel(ModelState.READY)))
    assert 70 < soon.tokens_per_second < 80
    assert late.tokens_per_second < 15


def test_arrivals_are_foreseen_from_those_of_the_last_minutes():
    demands = Demands()
    for second in range(1500):
        (demand,) = demands.observe(seen(float(second), arrived=2))
    assert demand.arrival == pytest.approx(2, rel=0.1)


def test_a_model_is_idle_since_its_last_job():
    demands = Demands()
    demands.observe(seen(0.0))
    demands.observe(seen(10.0, queued=1))
    demands.observe(seen(20.0, ServedModel(ModelState.READY, running=1)))
    (demand,) = demands.observe(seen(50.0))
    assert demand.idle_seconds == 30


def test_a_model_is_pinned_to_the_live_workers_that_it_names():
    config = ModelConfig(name="m", pinned_to=("w0", "w1@host", "w2@other", "w9"))
    idle = [ServedModel(ModelState.READY)] * 3
    (demand,) = Demands().observe(seen(0.0, *idle, model=RegisteredModel(config=config)))
    assert demand.pinned == {"w0@host", "w1@host"}


def test_a_model_without_a_worker_has_waited_since_its_first_job():
    demands, ready = Demands(), ServedModel(ModelState.READY, activity=Activity(queue_seconds=3))
    assert [
        demands.observe(one)[0].oldest_wait
        for one in (
            seen(0.0),
            seen(5.0, queued=1),
            seen(20.0, ServedModel(ModelState.LOADING), queued=2),
            seen(25.0, ready, queued=2),
            seen(30.0, queued=1),
            seen(40.0),
            seen(60.0, queued=1),
        )
    ] == [None, 0.0, 15.0, 3.0, 0.0, None, 0.0]
