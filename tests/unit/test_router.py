"""What a router makes of what it sees, on a clock of the test's own."""

from collections import Counter

import pytest

from nexus_jobs.adapters.memory_queue import MemorySignals
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
from nexus_jobs.job import JobError, NewJob, Request
from nexus_jobs.ports import Channel, Ending
from nexus_jobs.route import Route
from nexus_jobs.router import Router
from nexus_jobs.routing import Breaker
from nexus_jobs.states import State
from tests.unit.memory_services import ANSWER, ask

BOTH = [{"model": "a"}, {"model": "b"}]


class World:
    """A router, and what it hears and reads."""

    def __init__(self):
        self.now, self.reads, self.jobs = 100.0, 0, 0
        self.store, self.signals = MemoryStore(), MemorySignals()
        self.router = Router(
            store=self.store,
            fleet=self.store,
            workers=self.workers,
            signals=self.signals,
            clock=lambda: self.now,
        )
        self.serve("a", "b", "c")

    def serve(self, *models):
        self.served = models

    def workers(self):
        self.reads += 1
        served = {model: ServedModel(ModelState.READY) for model in self.served}
        return [WorkerReport(id="w", host="h", pid=1, device="cpu", models=served, fixed=True)]

    def choose(self, route, prompt="x", **fields):
        self.jobs += 1
        return self.router.choose(route, ask(prompt, **fields), f"{self.jobs}")

    def end(self, model, *, job_id="other", well=True):
        ending = Ending(
            model=model, state=State.SUCCEEDED if well else State.DEAD, attempt=1, started_at=0,
            finished_at=1, worker="w", result=ANSWER if well else None,
            error=None if well else JobError("engine_error", ""),
        )  # fmt: skip
        self.signals.send(Channel.ENDED, {job_id: ending})


@pytest.fixture
def world():
    return World()


def route(**fields):
    return Route(**{"name": "r", "targets": BOTH, "algorithm": "round_robin"} | fields)


def test_a_half_open_target_gets_one_job_until_that_has_ended(world):
    r = route(failure_threshold=1, open_seconds=10)
    world.end("a", well=False)
    assert {world.choose(r) for _ in range(4)} == {"b"}
    world.now += 10
    assert world.router.standings(r)["a"].breaker is Breaker.HALF_OPEN
    chosen = [world.choose(r) for _ in range(6)]
    assert Counter(chosen) == {"a": 1, "b": 5}
    world.end("a", job_id=str(world.jobs - 5 + chosen.index("a")))
    assert Counter(world.choose(r) for _ in range(6)) == {"a": 3, "b": 3}


def test_a_probe_that_fails_opens_the_breaker_for_as_long_again(world):
    r = route(failure_threshold=1, open_seconds=10, targets=[{"model": "a"}], fallback=["b"])
    world.end("a", well=False)
    world.now += 10
    assert [world.choose(r) for _ in range(2)] == ["a", "b"]
    world.now += 5
    world.end("a", job_id="1", well=False)
    world.now += 9
    assert world.choose(r) == "b"
    world.now += 1
    assert world.choose(r) == "a"


def test_workers_are_looked_at_once_a_second_at_most(world):
    r = route()
    for _ in range(50):
        world.choose(r)
        world.now += 0.01
    assert world.reads == 1
    world.serve("b")
    world.now += 0.6
    assert {world.choose(r) for _ in range(4)} == {"b"}
    assert world.reads == 2


def test_the_quicker_target_gets_the_job(world):
    r = route(algorithm="least_latency")
    first, second = world.choose(r), world.choose(r)
    assert {first, second} == {"a", "b"}
    world.now += 1
    world.end(second, job_id="2")
    world.now += 4
    world.end(first, job_id="1")
    assert {world.choose(r), world.choose(r)} == {second}
    standings = world.router.standings(r)
    assert (standings[first].state.latency, standings[second].state.outstanding) == (5.0, 2)


def test_the_shorter_backlog_in_the_database_gets_the_job(world):
    r = route(algorithm="least_backlog_tokens")
    new = [NewJob(id=f"q{i}", request=Request(model="a", prompt="x"), slack=0.0) for i in range(9)]
    world.store.add(new)
    assert [world.choose(r) for _ in range(4)] == ["b"] * 4


def test_prompts_that_begin_alike_stay_together_while_there_is_room(world):
    r = route(algorithm="consistent_hash", targets=[*BOTH, {"model": "c"}])
    homes = {}
    for _ in range(3):
        for topic in range(20):
            chosen = world.choose(r, f"{topic} " * 200 + str(world.jobs))
            assert homes.setdefault(topic, chosen) == chosen
            world.end(chosen, job_id=str(world.jobs))
    assert len(set(homes.values())) > 1
