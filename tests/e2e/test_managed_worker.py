"""A worker that is told what to serve while it runs; the tests decide in the scheduler's place."""

from __future__ import annotations

import itertools
import signal
import time

import httpx
import pytest

from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.fleet import Action, Decision, ModelState
from tests.e2e.roles import Roles
from tests.e2e.stack import SIMULATED, SLOW, until

CONVERGED_SECONDS = 10.0


class Fleet:
    """An API, a worker without models, and who decides."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.url = f"http://127.0.0.1:{roles.add_api('api')}"
        self.store = SqlStore(f"sqlite:///{roles.data_dir / 'nexus.db'}", pool_size=2)
        roles.add("w1", "worker", "--name", "w1")
        self.worker = until(self._reported)

    def _reported(self) -> str | None:
        return next((one.id for one in self.store.workers(max_age=10)), None)

    def serve(self, *models: str) -> None:
        """Decide that the worker serves these and no others."""
        before = {model.name for model in self.store.assigned(self.worker)}
        changes = [(Action.LOAD, model) for model in set(models) - before]
        changes += [(Action.UNLOAD, model) for model in before - set(models)]
        assert self.store.lead("test", seconds=60)
        assert self.store.decide(
            "test",
            [
                Decision(action=action, model=model, worker=self.worker, reason="the test")
                for action, model in changes
            ],
        )

    def ready(self) -> set[str]:
        (worker,) = self.store.workers(max_age=10)
        return {name for name, one in worker.models.items() if one.state is ModelState.READY}

    def held(self) -> set[str]:
        (worker,) = self.store.workers(max_age=10)
        return set(worker.models)

    def submit(self, model: str, **options: object) -> str:
        job = {"model": model, "prompt": "x", "cache": "no", "ignore_eos": True, **options}
        answer = httpx.post(f"{self.url}/api/v1/jobs", json=job)
        assert answer.status_code == 202
        return answer.json()["id"]

    def states(self) -> set[tuple[str, int]]:
        return set(self.roles.sql("SELECT state, attempt FROM jobs"))


@pytest.fixture
def fleet_of(make_roles):
    made: list[Fleet] = []

    def make(*models, **env) -> Fleet:
        roles = make_roles(*models)
        roles.env.update(env)
        made.append(Fleet(roles))
        return made[-1]

    yield make
    for fleet in made:
        fleet.store.close()


def test_a_worker_serves_what_it_is_told_and_its_jobs_are_taken_by_ticket(fleet_of):
    fleet = fleet_of(SIMULATED, SLOW, NEXUS_WORKER__POLL_SECONDS="60")
    assert fleet.held() == set()
    fleet.submit("simulated")
    assert fleet.states() == {("queued", 0)}
    fleet.serve("simulated")
    until(lambda: fleet.states() == {("succeeded", 1)}, timeout=CONVERGED_SECONDS)
    assert fleet.held() == {"simulated"}
    fleet.submit("simulated", max_tokens=7)
    until(lambda: fleet.states() == {("succeeded", 1)}, timeout=CONVERGED_SECONDS)
    assert fleet.roles.terminate("w1") < 5
    assert fleet.store.assignments() == []


def test_no_job_fails_while_its_model_comes_and_goes(fleet_of):
    fleet = fleet_of(SIMULATED, SLOW, NEXUS_WORKER__GRACE_SECONDS="0.2")
    turns = itertools.cycle([("slow",), ("simulated",), ("simulated", "slow")])
    for _ in range(6):
        wanted = next(turns)
        fleet.serve(*wanted)
        for _ in range(10):
            fleet.submit("slow", max_tokens=30)
            fleet.submit("simulated", max_tokens=30)
        until(lambda wanted=wanted: fleet.ready() == set(wanted), timeout=CONVERGED_SECONDS)
    until(lambda: fleet.states() == {("succeeded", 1)}, timeout=30)
    assert fleet.roles.sql("SELECT count(*) FROM results") == [(120,)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_a_change_while_redis_is_away_is_made_when_it_is_back(fleet_of, number):
    fleet = fleet_of(SIMULATED, SLOW, NEXUS_WORKER__POLL_SECONDS="60")
    fleet.serve("slow")
    until(lambda: fleet.ready() == {"slow"})
    fleet.roles.send("valkey", number)
    fleet.serve("simulated")
    until(lambda: fleet.ready() == {"simulated"}, timeout=CONVERGED_SECONDS)
    if number is signal.SIGKILL:
        fleet.roles.ended("valkey")
        fleet.roles.begin("valkey")
    else:
        fleet.roles.send("valkey", signal.SIGCONT)
    until(fleet.roles.valkey_pid)
    back = time.monotonic()
    until(lambda: fleet.submit("simulated") and fleet.states() <= {("succeeded", 1)}, timeout=20)
    assert time.monotonic() - back < CONVERGED_SECONDS
