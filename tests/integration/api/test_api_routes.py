"""Routes over HTTP: added, looked at, used and removed."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from nexus_jobs.bootstrap import Services, settlement_on
from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
from nexus_jobs.job import JobError, Outcome
from nexus_jobs.models import ModelConfig
from nexus_jobs.states import Event
from tests.e2e.stack import until

PATH = "/api/v1/routes/chat"
TARGETS = [{"model": "simulated", "weight": 3}, {"model": "smollm2-135m"}]
BODY = {"model": "chat", "prompt": "hello", "cache": "no"}


@pytest.fixture(autouse=True)
def worker(services: Services) -> None:
    served = {"simulated": ServedModel(ModelState.READY)}
    services.fleet.report(
        WorkerReport(id="w", host="h", pid=1, device="cpu", models=served, fixed=True)
    )


def put(client: FlaskClient, **config: Any) -> dict[str, Any]:
    answer = client.put(PATH, json={"targets": TARGETS, **config})
    assert answer.status_code == 200, answer.text
    return answer.json


def test_a_route_is_shown_as_it_was_put_with_what_it_left_out(client: FlaskClient):
    shown = put(client, shadow={"model": "simulated", "percent": 5}, open_seconds=2)
    assert shown == {
        "name": "chat",
        "object": "route",
        "algorithm": "least_connections",
        "failure_threshold": 3,
        "open_seconds": 2.0,
        "targets": [
            {"model": "simulated", "weight": 3.0},
            {"model": "smollm2-135m", "weight": 1.0},
        ],
        "fallback": [],
        "otherwise": "queue",
        "shadow": {"model": "simulated", "percent": 5.0},
        "models": [
            {
                "model": model,
                "available": available,
                "breaker": "closed",
                "failures": 0,
                "outstanding": 0,
                "latency_ms": None,
                "chosen": 0,
            }
            for model, available in (("simulated", True), ("smollm2-135m", False))
        ],
    }
    assert client.get(PATH).json == shown
    assert client.get("/api/v1/routes").json == {"object": "list", "data": [shown]}


def test_a_route_can_be_replaced_and_removed(client: FlaskClient):
    put(client)
    assert put(client, algorithm="weighted", targets=TARGETS[:1])["algorithm"] == "weighted"
    assert client.delete(PATH).json["name"] == "chat"
    for method in ("get", "delete"):
        answer = getattr(client, method)(PATH)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")
    answer = client.post("/api/v1/jobs", json=BODY)
    assert (answer.status_code, answer.json["code"]) == (422, "unknown_model")


def test_a_job_sent_to_a_route_says_so_and_counts(client: FlaskClient, finish):
    put(client)
    job = client.post("/api/v1/jobs", json=BODY).json
    assert (job["model"], job["route"], job["shadow_of"]) == ("simulated", "chat", None)
    client.post("/api/v1/jobs", json={**BODY, "model": "simulated"})
    (listed,) = client.get("/api/v1/jobs?route=chat").json["data"]
    assert listed["id"] == job["id"]
    target = client.get(PATH).json["models"][0]
    assert (target["outstanding"], target["chosen"]) == (1, 1)
    finish()
    assert client.get(PATH).json["models"][0]["outstanding"] == 0


def test_a_bulk_sent_to_a_route_is_routed_row_by_row(client: FlaskClient):
    put(client)
    answer = client.post("/api/v1/generate/batch", json={"model": "chat", "prompts": ["a", "b"]},
                         headers={"Prefer": "wait=0"})  # fmt: skip
    assert {(job["model"], job["route"]) for job in answer.json["data"]} == {("simulated", "chat")}


def test_copies_are_listed_when_asked_for(client: FlaskClient):
    put(client, shadow={"model": "smollm2-135m", "percent": 100})
    job = client.post("/api/v1/jobs", json=BODY).json
    (copy,) = until(lambda: client.get("/api/v1/jobs?shadow=yes").json["data"])
    assert (copy["shadow_of"], copy["model"], copy["priority"]) == (job["id"], "smollm2-135m", 9)
    assert [one["id"] for one in client.get("/api/v1/jobs").json["data"]] == [job["id"]]


def test_a_route_without_a_target_that_refuses_answers_503_with_when_to_come_back(
    client: FlaskClient,
):
    put(client, targets=[{"model": "smollm2-135m"}], otherwise="refuse")
    for path in ("/api/v1/jobs", "/api/v1/generate"):
        answer = client.post(path, json=BODY)
        assert (answer.status_code, answer.json["code"]) == (503, "no_target")
        assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/api/v1/jobs").json["data"] == []


def test_a_repeated_submission_is_known_by_what_the_client_sent(client: FlaskClient):
    put(client, algorithm="round_robin", targets=TARGETS[:1])
    key = {"Idempotency-Key": "k"}
    first = client.post("/api/v1/jobs", json=BODY, headers=key)
    put(client, targets=TARGETS[1:])
    again = client.post("/api/v1/jobs", json=BODY, headers=key)
    assert (again.status_code, again.json) == (202, first.json)
    other = client.post("/api/v1/jobs", json={**BODY, "model": "simulated"}, headers=key)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")


def test_jobs_that_die_show_in_the_breaker(client: FlaskClient, services: Services, finish):
    put(client, failure_threshold=2, fallback=[], targets=TARGETS[:1])
    for _ in range(2):
        client.post("/api/v1/jobs", json=BODY)
    jobs = services.platform.store.claim("simulated", 9, worker="w1", lease_seconds=60)
    bury(services, jobs)
    target = client.get(PATH).json["models"][0]
    assert (target["breaker"], target["failures"]) == ("open", 2)


def bury(services: Services, jobs: Any) -> None:
    error = JobError("engine_error", "it broke")
    outcomes = [Outcome(lease=job.lease, event=Event.BURY, error=error) for job in jobs]
    settlement_on(services.platform).settle(jobs, outcomes)


@pytest.mark.parametrize(
    ("config", "code", "field", "words"),
    [
        ({"targets": []}, "out_of_range", "targets", "at least 1 item"),
        ({}, "missing_field", "targets", "required"),
        (
            {"targets": [{"model": "simulate"}]},
            "unknown_model", "targets.0.model", "did you mean 'simulated'?",
        ),
        (
            {"targets": [{"model": "simulated", "weight": 0}]},
            "out_of_range", "targets.0.weight", "greater than or equal",
        ),
        (
            {"targets": [{"model": "simulated", "weight": 1e308}]},
            "out_of_range", "targets.0.weight", "at most 1000000000",
        ),
        (
            {"targets": TARGETS, "failure_threshold": 10**30},
            "out_of_range", "failure_threshold", "at most 1000000000",
        ),
        (
            {"targets": [{"model": "simulated"}] * 2},
            "duplicate_model", "targets.1.model", "name each model once",
        ),
        (
            {"targets": TARGETS, "fallback": ["simulated"]},
            "duplicate_model", "fallback.0", "name each model once",
        ),
        (
            {"targets": TARGETS, "shadow": {"model": "simulated", "percent": 101}},
            "out_of_range", "shadow.percent", "less than or equal to 100",
        ),
        ({"targets": TARGETS, "algorithm": "best"}, "invalid_value", "algorithm", "'weighted'"),
        ({"targets": TARGETS, "algoritm": "x"}, "unknown_field", "algoritm", "'algorithm'"),
    ],
)  # fmt: skip
def test_a_wrong_route_is_refused_with_what_would_be_right(
    client: FlaskClient, config: dict[str, Any], code: str, field: str, words: str
):
    answer = client.put(PATH, json=config)
    assert (answer.status_code, answer.json["code"]) == (422, code), answer.text
    (error,) = answer.json["errors"]
    assert error["field"] == field
    assert words in error["message"]
    assert client.get("/api/v1/routes").json["data"] == []


@pytest.mark.parametrize(
    ("name", "code"),
    [("simulated", "name_taken"), ("No%20Name", "invalid_value"), ("x" * 101, "invalid_value")],
)
def test_a_name_that_cannot_be_is_refused(client: FlaskClient, name: str, code: str):
    answer = client.put(f"/api/v1/routes/{name}", json={"targets": TARGETS})
    assert (answer.status_code, answer.json["code"]) == (422, code)
    assert answer.json["errors"][0]["field"] == "name"


def test_a_model_that_another_process_has_just_added_is_known(
    client: FlaskClient, services: Services
):
    put(client)
    services.fleet.sync_models([ModelConfig(name="simulated", type="simulated"),
                                ModelConfig(name="new", type="simulated")])  # fmt: skip
    job = client.post("/api/v1/jobs", json={**BODY, "model": "new"})
    assert job.status_code == 202
    services.fleet.sync_models([ModelConfig(name="newest", type="simulated")])
    assert put(client, targets=[{"model": "newest"}])["targets"][0]["model"] == "newest"
