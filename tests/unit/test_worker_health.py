"""What a worker finds out and tells about its models."""

import threading

import pytest

from nexus_jobs.errors import EngineError
from nexus_jobs.fleet import ModelState
from nexus_jobs.models import SimulatedTimes
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_worker import (
    MODEL,
    Kept,
    assign,
    engine,
    is_in,
    report,
    unassign,
)
from workers import device, loading


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr(device, "LOOK_SECONDS", 0.02)


class Moody(Kept):
    """Runs nothing while it is sick."""

    def step(self):
        if self.sick:
            self._rows.clear()
            raise EngineError("out of order")
        return super().step()


def test_an_engine_that_fails_its_health_check_is_replaced_and_the_reason_told(start, monkeypatch):
    monkeypatch.setattr(loading, "YOUNG_SECONDS", 0.0)
    built, let_go = [], threading.Event()

    def build(model):
        if built:
            let_go.wait(20)
        made = Moody(model)
        made.sick = False
        built.append(made)
        return made

    worker = start(build, model=MODEL.model_copy(update={"health_check_interval": 0.05}))
    until(lambda: is_in(worker, ModelState.READY))
    built[0].sick = True
    until(lambda: is_in(worker, ModelState.LOADING))
    assert "health check failed: out of order" in report(worker).reason
    until(built[0].closed.is_set)
    let_go.set()
    until(lambda: is_in(worker, ModelState.READY))
    assert report(worker).reason is None
    assert worker.ended(worker.add("x"))[0].attempt == 1


def test_an_idle_model_is_probed_and_a_busy_one_is_not(start):
    probed = threading.Semaphore(0)
    beside = []

    class Noted(Kept):
        def admit(self, sequences):
            if sequences[0].id.startswith("warm-up") and len(sequences) == 1:
                beside.extend(self._rows)
                probed.release()
            super().admit(sequences)

    model = MODEL.model_copy(update={"health_check_interval": 0.05, "warmup": False})
    worker = start(lambda model: Noted(model, SimulatedTimes(step_ms=2)), model=model)
    assert probed.acquire(timeout=10)
    until(lambda: report(worker).healthy_at)
    worker.ended(worker.add("x", max_tokens=200, ignore_eos=True))
    assert probed.acquire(timeout=10)
    assert beside == []


def test_the_report_tells_what_a_model_does(start):
    worker = start(lambda model: engine(model, step_ms=2, poison="poison"), lease_seconds=0.5)
    jobs = worker.ended(worker.add(*["x"] * 4, max_tokens=100, ignore_eos=True))
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    there = report(worker)
    assert (there.activity.ended, there.activity.failed, there.activity.tokens) == (4, 0, 400)
    assert there.activity.step_ms >= 2
    assert 0 < there.activity.tokens_per_second <= 4 / 0.002
    assert there.memory_mb >= 0
    assert there.healthy_at >= jobs[0].finished_at - 1
    worker.ended(worker.add("poison"))
    after = report(worker).activity
    assert (after.ended, after.failed) == (7, 3)
    until(lambda: worker.platform.loads.all()["w"].models["simulated"].activity.ended == 7)


def test_a_change_of_state_is_reported_to_the_database_at_once(start):
    worker = start(managed=True, lease_seconds=600)  # so that no heartbeat is due
    until(lambda: worker.store.workers(max_age=60))
    assign(worker, "simulated")

    def states():
        (seen,) = worker.store.workers(max_age=60)
        return {one.state for one in seen.models.values()}

    until(lambda: states() == {ModelState.READY}, timeout=10)
    unassign(worker, "simulated")
    until(lambda: states() == set(), timeout=10)


def test_what_loading_took_is_kept_with_the_model(start):
    worker = start(managed=True)
    assign(worker, "simulated")
    until(lambda: worker.store.registered()[0].measured)
    assert worker.store.registered()[0].measured.load_seconds > 0
