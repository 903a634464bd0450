"""What a worker promises that is told which models to serve while it runs."""

import threading

import pytest

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.fleet import ModelState, Wanted
from nexus_jobs.models import ModelConfig
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_worker import (
    MODEL,
    Engines,
    assign,
    engine,
    is_in,
    report,
    slow_engine,
    unassign,
)
from workers import device, loading

OTHER = ModelConfig(name="other", type="simulated", max_batch_size=4)
LONG = {"max_tokens": 250, "ignore_eos": True}


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(device, "LOOK_SECONDS", 0.02)


def test_a_worker_begins_with_no_model_and_serves_what_it_is_assigned(start):
    worker = start(managed=True)
    (job,) = worker.add("x")
    assert worker.device._report().models == {}
    assert worker.state(job) is State.QUEUED
    assign(worker, "simulated")
    assert worker.ended([job])[0].state is State.SUCCEEDED
    until(lambda: worker.subscribed == {"simulated"})


def test_a_model_that_is_not_assigned_any_more_ends_what_runs_and_gives_its_engine_back(start):
    engines = Engines(step_ms=1)
    worker = start(engines, managed=True)
    assign(worker, "simulated")
    running = worker.add(*["x"] * 4, **LONG)
    until(lambda: all(worker.state(job) is State.RUNNING for job in running))
    waiting = worker.add("later")
    unassign(worker, "simulated")
    until(lambda: worker.subscribed == set())
    assert {job.state for job in worker.ended(running)} == {State.SUCCEEDED}
    until(lambda: worker.device._report().models == {})
    assert engines[0].closed.is_set()
    assert worker.state(waiting[0]) is State.QUEUED


def test_what_outlasts_the_grace_period_of_an_unload_is_handed_back_unharmed(start):
    worker = start(slow_engine, managed=True, grace_seconds=0.05)
    assign(worker, "simulated")
    (job,) = worker.add("x", **LONG)
    until(lambda: worker.state(job) is State.RUNNING)
    unassign(worker, "simulated")
    until(lambda: worker.device._report().models == {})
    back = worker.store.get(job)
    assert (back.state, back.attempt) == (State.QUEUED, 0)


@pytest.mark.parametrize("managed", [True, False])
def test_a_new_version_takes_the_place_of_the_old_one_when_that_is_gone(start, managed):
    engines = Engines(step_ms=1)
    worker = start(engines, managed=managed)
    if managed:
        assign(worker, "simulated")
    (job,) = worker.add("x", **LONG)
    until(lambda: worker.state(job) is State.RUNNING)
    worker.store.register(MODEL.model_copy(update={"max_batch_size": 7}))
    until(lambda: is_in(worker, ModelState.READY) and report(worker).version == 2)
    assert worker.state(job) is State.SUCCEEDED
    assert [one.model.max_batch_size for one in engines] == [4, 7]
    assert engines[0].closed.is_set()


def test_a_model_that_comes_back_while_it_drains_is_served_again(start):
    engines = Engines(step_ms=1)
    worker = start(engines, managed=True)
    assign(worker, "simulated")
    (job,) = worker.add("x", **LONG)
    until(lambda: worker.state(job) is State.RUNNING)
    unassign(worker, "simulated")
    until(lambda: is_in(worker, ModelState.DRAINING))
    assign(worker, "simulated")
    assert worker.ended([job])[0].state is State.SUCCEEDED
    assert worker.ended(worker.add("y"))[0].state is State.SUCCEEDED
    assert len(engines) == 2


def test_a_model_is_loaded_when_the_one_that_makes_room_for_it_is_gone(start):
    engines = Engines(step_ms=1)
    worker = start(engines, managed=True)
    worker.store.register(OTHER)
    assign(worker, "simulated")
    (job,) = worker.add("x", **LONG)
    until(lambda: worker.state(job) is State.RUNNING)
    unassign(worker, "simulated")
    assign(worker, "other")
    until(lambda: is_in(worker, ModelState.DRAINING))
    assert report(worker, "other") is None
    until(lambda: is_in(worker, ModelState.READY, "other"))
    assert engines[0].closed.is_set()
    assert worker.state(job) is State.SUCCEEDED


def test_a_model_that_is_known_to_fit_does_not_wait_for_another_to_drain(start):
    worker = start(slow_engine, managed=True)
    worker.store.register(OTHER)
    assign(worker, "other")
    until(lambda: worker.store.registered()[1].measured)
    unassign(worker, "other")
    until(lambda: worker.device._report().models == {})
    assign(worker, "simulated")
    (job,) = worker.add("x", **LONG)
    until(lambda: worker.state(job) is State.RUNNING)
    unassign(worker, "simulated")
    assign(worker, "other")
    until(lambda: is_in(worker, ModelState.READY, "other"))
    assert worker.state(job) is State.RUNNING


def test_a_failed_load_says_why_and_is_tried_again_while_another_model_runs(start, monkeypatch):
    monkeypatch.setattr(loading, "RELOAD_SECONDS", 0.05)
    mended = threading.Event()

    def build(model):
        if model.name == "other" and not mended.is_set():
            raise RuntimeError("unexpected end of file")
        return engine(model)

    worker = start(build, managed=True)
    worker.store.register(OTHER)
    assign(worker, "other", "simulated")
    until(lambda: is_in(worker, ModelState.FAILED, "other"))
    assert "unexpected end of file" in report(worker, "other").reason
    assert worker.ended(worker.add("x"))[0].state is State.SUCCEEDED
    assert worker.subscribed == {"simulated"}
    mended.set()
    until(lambda: is_in(worker, ModelState.READY, "other"))
    assert report(worker, "other").reason is None


def test_while_the_database_is_away_a_worker_keeps_what_it_has(start, monkeypatch):
    worker = start(managed=True)
    assign(worker, "simulated")
    until(lambda: is_in(worker, ModelState.READY))
    asked = threading.Semaphore(0)

    def away(_worker):
        asked.release()
        raise StoreUnavailable("away")

    monkeypatch.setattr(worker.store, "assigned", away)
    assert all(asked.acquire(timeout=10) for _ in range(3))
    assert worker.ended(worker.add("x"))[0].state is State.SUCCEEDED


def test_a_fixed_worker_lets_go_of_its_model_only_when_people_want_it_unloaded(start):
    worker = start()
    until(lambda: worker.subscribed == {"simulated"})
    worker.store.want("simulated", Wanted.UNLOADED)
    until(lambda: worker.device._report().models == {})
    worker.store.want("simulated", Wanted.AUTO)
    until(lambda: is_in(worker, ModelState.READY))
    assert worker.device._report().fixed


def test_a_fixed_worker_serves_a_model_of_its_list_that_is_registered_later(start):
    def forget(worker):
        worker.store.remove_model("simulated")

    worker = start(before=forget)
    assert worker.device._report().models == {}
    worker.store.register(MODEL)
    assert worker.ended(worker.add("x"))[0].state is State.SUCCEEDED


def test_a_worker_that_leaves_takes_its_assignments_and_its_live_load_along(start):
    worker = start(managed=True)
    assign(worker, "simulated")
    until(lambda: worker.platform.loads.all())
    worker.device.drain()
    worker.device.join()
    assert worker.store.assignments() == []
    assert worker.platform.loads.all() == {}
