"""Models, health and metrics over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport


def report(services: Services, worker_id: str, models: Mapping[str, ServedModel]) -> None:
    services.fleet.report(WorkerReport(id=worker_id, host="h", pid=1, device="cpu", models=models))


def model(client: FlaskClient, path: str = "/api/v1/models") -> dict[str, Any]:
    found = {one["name"]: one for one in client.get(path).json["data"]}
    assert sorted(found) == ["simulated", "smollm2-135m"]
    return found["smollm2-135m"]


@pytest.mark.parametrize("path", ["/api/v1/models", "/health/models"])
def test_a_model_that_no_worker_serves_says_so(client: FlaskClient, path: str):
    assert model(client, path) == {
        "name": "smollm2-135m",
        "object": "model",
        "type": "auto",
        "engine": None,
        "state": "unserved",
        "reason": None,
        "workers": 0,
        "max_batch_size": 32,
        "max_sequence_length": 2048,
    }


def test_a_model_is_as_well_as_its_best_worker(client: FlaskClient, services: Services):
    name = "smollm2-135m"
    report(services, "a", {name: ServedModel(ModelState.FAILED, "onnx", "no file")})
    assert (model(client)["state"], model(client)["reason"]) == ("failed", "no file")
    report(services, "b", {name: ServedModel(ModelState.LOADING)})
    assert (model(client)["state"], model(client)["reason"]) == ("loading", None)
    report(services, "b", {name: ServedModel(ModelState.READY, "openvino int8")})
    report(services, "c", {name: ServedModel(ModelState.READY, "openvino int8")})
    ready = model(client)
    assert (ready["state"], ready["engine"], ready["workers"]) == ("ready", "openvino int8", 2)


def test_a_worker_that_drains_serves_no_longer(client: FlaskClient, services: Services):
    report(services, "a", {"smollm2-135m": ServedModel(ModelState.DRAINING, "onnx")})
    assert model(client)["state"] == "unserved"


@pytest.mark.parametrize(
    ("database", "redis", "status", "code"),
    [
        (None, None, "ok", 200),
        (None, "connection refused", "degraded", 200),
        ("disk full", None, "unavailable", 503),
        ("disk full", "connection refused", "unavailable", 503),
    ],
)
@pytest.mark.parametrize("path", ["/health/ready", "/health"])
def test_only_the_database_decides_whether_jobs_can_be_accepted(
    client: FlaskClient,
    services: Services,
    path: str,
    database: str | None,
    redis: str | None,
    status: str,
    code: int,
):
    checks = {"database": database, "redis": redis}
    services.platform.probes.update(database=lambda: database, redis=lambda: redis)
    answer = client.get(path)
    assert (answer.status_code, answer.json["status"]) == (code, status)
    assert answer.json["checks"] == checks


def test_a_process_that_stops_is_not_ready(client: FlaskClient, services: Services):
    services.watch.close()
    for path in ("/health/ready", "/health"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["status"]) == (503, "stopping")


def test_health_tells_all_in_one(client: FlaskClient):
    health = client.get("/health").json
    assert health["status"] == "ok"
    assert health["version"]
    assert [one["name"] for one in health["models"]] == ["simulated", "smollm2-135m"]


def test_a_process_that_answers_is_alive_whatever_else_is_broken(
    client: FlaskClient, services: Services
):
    services.platform.probes.update(database=lambda: "gone", redis=lambda: "gone")
    answer = client.get("/health/live")
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})


def test_metrics_count_what_was_submitted(client: FlaskClient):
    def submitted() -> float:
        answer = client.get("/metrics")
        assert answer.mimetype == "text/plain"
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "nexus_jobs_submitted_total" and sample.labels["model"] == "simulated"
        )

    before = submitted()
    client.post("/api/v1/jobs", json={"model": "simulated", "prompt": "count me"})
    assert submitted() == before + 1
