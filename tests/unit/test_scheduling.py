"""What rounds of scheduling do to the assignments."""

from dataclasses import replace

import pytest

from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.config import SchedulerSettings
from nexus_jobs.fleet import (
    WHOLE_FLEET,
    Action,
    ModelState,
    ServedModel,
    Wanted,
    WorkerReport,
)
from nexus_jobs.job import NewJob, Request
from nexus_jobs.models import ModelConfig
from nexus_jobs.scheduling import Scheduling

A, B = ModelConfig(name="a", type="simulated"), ModelConfig(name="b", type="simulated")
SETTINGS = SchedulerSettings(dwell_seconds=0, slo_seconds=5)


class Site:
    """A store, its workers, and schedulers on it."""

    def __init__(self, *workers: str, **bounds):
        self.store = MemoryStore()
        self.store.sync_models([A, B])
        self.workers = {
            name: WorkerReport(id=name, host="h", pid=1, device="cpu", **bounds) for name in workers
        }
        self.first, self.second = self.scheduling("first"), self.scheduling("second")

    def scheduling(self, holder):
        return Scheduling(
            holder=holder, jobs=self.store, fleet=self.store, schedule=self.store,
            reports=lambda: list(self.workers.values()), settings=SETTINGS,
        )  # fmt: skip

    @property
    def places(self):
        return {(one.worker, one.model) for one in self.store.assignments()}

    def serve(self, **states):
        """Let the workers report what they were assigned, in these states."""
        for name, worker in self.workers.items():
            mine = [model for at, model in self.places if at == name]
            served = {m: ServedModel(states.get(m, ModelState.READY), slots=4) for m in mine}
            self.workers[name] = replace(worker, models=served)

    def submit(self, model, count):
        request = Request(model=model, prompt="x")
        start = len(self.store._jobs)
        self.store.add(
            [NewJob(id=f"{start + i:05}", request=request, slack=0) for i in range(count)]
        )


def test_everything_is_loaded_everywhere_if_it_fits_and_nothing_moves_then():
    site = Site("w1", "w2")
    assert site.first.round()
    assert site.places == {(w, m) for w in ("w1", "w2") for m in ("a", "b")}
    made = site.store.decisions(10)
    assert len(made) == 4
    assert all(one.reason for one in made)
    site.serve()
    site.submit("a", 5000)
    site.first.round()
    assert site.store.decisions(10) == made


def test_one_decides_and_the_other_only_when_that_one_stops():
    site = Site("w1")
    assert site.first.round()
    assert not site.second.round()
    site.workers["w2"] = replace(site.workers["w1"], id="w2")
    assert not site.second.round()
    assert {worker for worker, _ in site.places} == {"w1"}
    site.first.stop()
    assert site.second.round()
    assert not site.first.round()
    assert {worker for worker, _ in site.places} == {"w1", "w2"}


def test_a_worker_goes_to_where_the_work_is():
    site = Site("w1", "w2", max_models=1)
    site.first.round()
    assert {model for _, model in site.places} == {"a", "b"}
    site.serve()
    site.submit("a", 100_000)
    site.first.round()
    site.serve()
    assert {model for _, model in site.places} == {"a"}
    site.submit("b", 1)
    site.first.round()
    assert {model for _, model in site.places} == {"a", "b"}
    latest = site.store.decisions(2)
    assert {one.action for one in latest} == {Action.LOAD, Action.UNLOAD}


@pytest.mark.parametrize("state", [ModelState.WARMING, ModelState.DRAINING])
def test_a_model_that_is_on_its_way_is_not_loaded_elsewhere(state):
    site = Site("w1", "w2", max_models=1)
    site.first.round()
    made = site.store.decisions(10)
    site.serve(a=state)
    site.submit("a", 1)
    site.first.round()
    assert site.store.decisions(10) == made


def test_what_a_person_wants_is_done():
    site = Site("w1")
    site.first.round()
    site.serve()
    site.store.want("a", Wanted.UNLOADED)
    site.first.round()
    assert site.places == {("w1", "b")}
    site.store.want("a", Wanted.LOADED)
    site.first.round()
    assert site.places == {("w1", "a"), ("w1", "b")}


def test_a_worker_with_a_list_of_its_own_is_left_alone():
    site = Site("w1", fixed=True)
    site.first.round()
    assert site.places == set()


def test_a_worker_that_drains_gets_nothing():
    site = Site("w1", draining=True)
    site.first.round()
    assert site.places == set()


def test_a_model_that_fails_to_load_is_not_sent_there_again_and_leaves_its_room_to_others():
    site = Site("w1", max_models=1)
    site.submit("a", 10)
    for _ in range(4):
        site.first.round()
        site.serve(a=ModelState.FAILED)
    assert [(d.action, d.model) for d in site.store.decisions(50)] == [
        (Action.LOAD, "b"),
        (Action.LOAD, "a"),
    ]


def test_a_model_that_failed_to_load_can_be_unloaded():
    site = Site("w1")
    site.first.round()
    site.serve(a=ModelState.FAILED)
    site.store.want("a", Wanted.UNLOADED)
    site.first.round()
    assert site.places == {("w1", "b")}


@pytest.mark.parametrize("jobs", [0, 20_000])
def test_it_recommends_workers_for_each_model_and_for_all(jobs):
    site = Site("w1")
    site.submit("a", jobs)
    site.first.round()
    recommended = {one.model: one.replicas for one in site.store.recommendations()}
    assert recommended.keys() == {WHOLE_FLEET, "a", "b"}
    if jobs:
        assert recommended["a"] > 10
        assert recommended[WHOLE_FLEET] >= recommended["a"]
    else:
        assert recommended[WHOLE_FLEET] <= 1
