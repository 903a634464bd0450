"""How a worker loads a model again, after a failed load and after the death of its engine."""

import threading

import pytest

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.errors import ModelUnavailable
from nexus_jobs.fleet import ModelState
from nexus_jobs.models import SimulatedTimes
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_worker import MODEL, engine, is_in, report
from workers import loading


class Stopping(threading.Event):
    """Waits for nothing and notes for how long; is set after so many waits."""

    def __init__(self, after):
        super().__init__()
        self.waits = []
        self._after = after

    def wait(self, timeout=None):
        self.waits.append(timeout)
        if len(self.waits) == self._after:
            self.set()
        return self.is_set()


def loader(build, stopping, said):
    return loading.Loader(
        MODEL, build=build, stopping=stopping, become=lambda *state: said.append(state)
    )


def test_a_failed_load_is_tried_less_and_less_often():
    stopping = Stopping(after=8)

    def missing(model):
        raise ModelUnavailable("not here")

    assert loader(missing, stopping, []).load() is None
    assert stopping.waits == [0, 15, 30, 60, 120, 240, 300, 300]


def test_an_engine_that_dies_soon_after_it_was_loaded_is_loaded_less_and_less_often():
    stopping, said = Stopping(after=9), []
    loads = loader(engine, stopping, said)
    while (loaded := loads.load()) is not None:
        loaded.engine.close()
        loads.died("of something")
    assert stopping.waits == [0, 1, 2, 4, 8, 16, 32, 64, 128]
    assert said[-1] == (ModelState.FAILED, "of something")


def test_one_that_has_lived_for_a_while_is_replaced_at_once(monkeypatch):
    stopping, said = Stopping(after=9), []
    loads = loader(engine, stopping, said)
    loads.load()
    loads.died("young")
    loads.load()
    with monkeypatch.context() as later:
        later.setattr(loading, "YOUNG_SECONDS", 0.0)
        loads.died("of old age")
    assert said[-1] == (ModelState.LOADING, "of old age")
    loads.load()
    assert stopping.waits == [0, 1, 0]


class Mortal(SimulatedEngine):
    """The first of them dies of its second batch, as an engine's process may."""

    def __init__(self, model, made):
        super().__init__(SimulatedTimes(), model.max_batch_size, 256)
        made.append(self)
        self._dies_after = 4 if len(made) == 1 else 1000

    def admit(self, sequences):
        self._live()
        super().admit(sequences)

    def _live(self):
        self._dies_after -= 1
        if self._dies_after < 0:
            raise ModelUnavailable("its process has died")


class DiesInAStep(Mortal):
    """It dies while rows run, as a server that cannot be reached any more."""

    def admit(self, sequences):
        SimulatedEngine.admit(self, sequences)

    def step(self):
        if "warm-up/0" not in self._rows:
            self._live()
        return super().step()


@pytest.mark.parametrize("kind", [Mortal, DiesInAStep])
def test_an_engine_that_has_died_is_built_anew_and_costs_no_attempt(start, monkeypatch, kind):
    monkeypatch.setattr(loading, "YOUNG_SECONDS", 0.0)
    made = []
    worker = start(lambda model: kind(model, made))
    worker.ended(worker.add("before"))
    jobs = worker.ended(worker.add(*["after"] * 6, max_tokens=5, ignore_eos=True))
    assert {(job.state, job.attempt) for job in jobs} == {(State.SUCCEEDED, 1)}
    assert len(made) == 2


def test_an_engine_that_dies_as_soon_as_it_is_loaded_is_left_alone_for_a_while(start, monkeypatch):
    monkeypatch.setattr(loading, "REBUILD_SECONDS", 60.0)
    made = []

    class Stillborn(SimulatedEngine):
        def __init__(self, model):
            super().__init__(SimulatedTimes(), model.max_batch_size, 256)
            made.append(self)

        def step(self):
            if "warm-up/0" not in self._rows:
                raise ModelUnavailable("refused")
            return super().step()

    worker = start(Stillborn)
    (job,) = worker.add("x")
    until(lambda: is_in(worker, ModelState.FAILED))
    assert report(worker).reason == "refused"
    assert len(made) == 1
    until(lambda: worker.store.get(job).state is State.QUEUED)
    assert worker.store.get(job).attempt == 0
