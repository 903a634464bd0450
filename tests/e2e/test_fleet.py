"""Workers follow what the scheduler decides, whoever fails meanwhile."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.roles import Roles
from tests.e2e.stack import SIMULATED, until

STEPS = {"simulated": {"step_ms": 20}, "max_batch_size": 4}
MODELS = [{**SIMULATED, **STEPS, "name": name} for name in ("red", "green", "blue")]
TAKEOVER_SECONDS = 10.0


class Fleet:
    """An API, workers that may hold one model each, and schedulers."""

    def __init__(self, roles: Roles, workers: Sequence[str] = ("w1", "w2"), **env: str) -> None:
        self.roles = roles
        roles.env |= {"NEXUS_WORKER__MAX_MODELS": "1", "NEXUS_SCHEDULER__DWELL_SECONDS": "1"} | env
        self.port = roles.add_api("api")
        roles.http.base_url = f"http://127.0.0.1:{self.port}"
        for name in workers:
            roles.add(name, "worker", "--name", name)
        until(lambda: len(self.get("workers")["data"]) == len(workers))

    def get(self, path: str) -> Any:
        return self.roles.http.get(f"/api/v1/{path}").json()

    def places(self) -> dict[str, int]:
        """On how many workers each model is ready."""
        return {model["name"]: model["workers"] for model in self.get("models")["data"]}

    def decisions(self) -> list[dict[str, Any]]:
        return self.get("assignments")["decisions"]

    def generate(self, model: str) -> dict[str, Any]:
        body = {"model": model, "prompt": "x", "max_tokens": 4, "cache": "no"}
        return self.roles.http.post("/api/v1/generate", json=body).json()


@pytest.fixture
def fleet(make_roles) -> Fleet:
    return Fleet(make_roles(*MODELS))


def test_a_model_without_a_worker_is_loaded_at_its_first_job_and_the_busy_one_keeps_its_own(fleet):
    fleet.roles.add("s1", "scheduler")
    until(lambda: sum(fleet.places().values()) == 2)
    (absent,) = [name for name, ready in fleet.places().items() if not ready]
    job = fleet.generate(absent)
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    latest = fleet.decisions()[:2]
    assert {(one["action"], one["model"] == absent) for one in latest} == {
        ("load", True), ("unload", False),
    }  # fmt: skip
    assert all(one["reason"] for one in latest)


def test_one_of_two_schedulers_decides_and_the_other_takes_over_when_it_is_killed(fleet):
    for name in ("s1", "s2"):
        fleet.roles.add(name, "scheduler")
    until(lambda: sum(fleet.places().values()) == 2)
    made = {name: fleet.roles.log_of(name).count("model.load") for name in ("s1", "s2")}
    assert sorted(made.values()) == [0, 2]
    assert len(fleet.decisions()) == 2
    leader, other = sorted(made, key=made.__getitem__, reverse=True)
    fleet.roles.send(leader, signal.SIGKILL)
    assert fleet.roles.ended(leader) == -signal.SIGKILL
    fleet.roles.add("w3", "worker", "--name", "w3")
    until(lambda: "model.load" in fleet.roles.log_of(other), timeout=TAKEOVER_SECONDS)
    until(lambda: sum(fleet.places().values()) == 3)


def test_a_queued_job_tells_why_it_waits_and_starts_when_that_is_over(fleet):
    job = {"model": "red", "prompt": "x", "cache": "no"}
    sent = fleet.roles.http.post("/api/v1/jobs", json=job).json()

    def waiting():
        return fleet.get(f"jobs/{sent['id']}")["waiting"]

    assert waiting()["reason"] == "not_loaded"
    fleet.roles.http.post("/api/v1/models/red/unload")
    until(lambda: waiting()["reason"] == "unloaded")
    fleet.roles.add("s1", "scheduler")
    until(lambda: sum(fleet.places().values()) == 2)
    assert waiting()["reason"] == "unloaded"
    fleet.roles.http.post("/api/v1/models/red/load")
    until(lambda: fleet.get(f"jobs/{sent['id']}")["state"] == "succeeded")


def test_two_models_that_do_not_fit_together_take_turns_until_all_is_done(make_roles):
    slo = {"NEXUS_SCHEDULER__SLO_SECONDS": "2"}
    fleet = Fleet(make_roles(*MODELS[:2]), workers=["w1"], **slo)
    fleet.roles.add("s1", "scheduler")
    prompts = [f"{n}" + " and" * 15 for n in range(60)]  # 5 s of work for each model
    bulks = []
    for model in ("red", "green"):
        body = {"model": model, "prompts": prompts, "cache": "no"}
        answer = fleet.roles.http.post(
            "/api/v1/generate/batch", json=body, headers={"Prefer": "wait=0"}
        )
        bulks.append(f"bulk/{answer.json()['bulk_id']}")
    for bulk in bulks:
        until(lambda bulk=bulk: fleet.get(bulk)["state"] == "completed", timeout=60)
        assert fleet.get(bulk)["counts"]["succeeded"] == len(prompts)
    loaded = [one["model"] for one in fleet.decisions() if one["action"] == "load"]
    assert min(loaded.count("red"), loaded.count("green")) >= 2


def test_a_model_that_cannot_be_loaded_tells_why_and_disturbs_no_other(make_roles, models_dir):
    broken = {"name": "broken", "type": "openvino", "path": "no-such-folder"}
    fleet = Fleet(make_roles(MODELS[0], broken))
    fleet.roles.add("s1", "scheduler")
    until(lambda: fleet.places()["red"] >= 1)
    job = fleet.roles.http.post("/api/v1/jobs", json={"model": "broken", "prompt": "x"}).json()
    until(lambda: fleet.get(f"jobs/{job['id']}")["waiting"]["reason"] == "failed")
    assert "no-such-folder" in fleet.get(f"jobs/{job['id']}")["waiting"]["detail"]
    (shown,) = [one for one in fleet.get("models")["data"] if one["name"] == "broken"]
    assert shown["state"] == "failed"
    assert fleet.generate("red")["state"] == "succeeded"
    assert fleet.roles.http.get("/health/models").status_code == 503
