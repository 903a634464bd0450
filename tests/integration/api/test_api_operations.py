"""Models, health and metrics over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import (
    Activity,
    ModelState,
    Recommendation,
    ServedModel,
    Wanted,
    WorkerReport,
)


def report(services: Services, worker_id: str, models: Mapping[str, ServedModel]) -> None:
    services.fleet.report(WorkerReport(id=worker_id, host="h", pid=1, device="cpu", models=models))


def model(client: FlaskClient, path: str = "/api/v1/models") -> dict[str, Any]:
    found = {one["name"]: one for one in client.get(path).json["data"]}
    assert sorted(found) == ["simulated", "smollm2-135m"]
    return found["smollm2-135m"]


def test_a_model_that_no_worker_has_is_just_registered(client: FlaskClient):
    assert model(client) == {
        "name": "smollm2-135m",
        "object": "model",
        "type": "auto",
        "engine": None,
        "state": "registered",
        "reason": None,
        "workers": 0,
        "max_batch_size": 32,
        "max_sequence_length": 2048,
        "version": 1,
        "origin": "file",
        "wanted": "auto",
        "load_seconds": None,
        "memory_mb": None,
        "placements": [],
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
    draining = model(client)
    assert (draining["state"], draining["workers"]) == ("draining", 0)


def test_models_are_healthy_until_one_has_failed_everywhere(
    client: FlaskClient, services: Services
):
    name = "smollm2-135m"

    def health() -> tuple[int, str]:
        answer = client.get("/health/models")
        return answer.status_code, answer.json["status"]

    assert health() == (200, "ok")
    report(services, "a", {name: ServedModel(ModelState.FAILED, reason="no file")})
    assert health() == (503, "failed")
    report(services, "b", {name: ServedModel(ModelState.READY, healthy_at=1.5)})
    assert health() == (200, "ok")
    assert model(client, "/health/models") == {
        "name": name,
        "state": "ready",
        "reason": None,
        "healthy_at": "1970-01-01T00:00:01.500Z",
        "workers": 1,
    }
    services.fleet.retire("b", pid=1)
    assert health() == (503, "failed")
    services.fleet.want(name, Wanted.UNLOADED)
    assert health() == (200, "ok")
    assert model(client)["state"] == "unloaded"


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


def test_metrics_sum_what_the_workers_say(client: FlaskClient, services: Services):
    busy = ServedModel(
        ModelState.READY,
        running=3,
        slots=8,
        memory_mb=2.0,
        activity=Activity(tokens_per_second=12.5),
    )
    report(services, "a", {"simulated": busy})
    report(services, "b", {"simulated": busy})
    services.schedule.recommend([Recommendation(model="simulated", replicas=3, reason="backlog")])
    gauges = {
        (sample.name, sample.labels["model"]): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if family.type == "gauge" and "model" in sample.labels
    }
    assert gauges["nexus_model_ready_workers", "simulated"] == 2
    assert gauges["nexus_model_ready_workers", "smollm2-135m"] == 0
    assert gauges["nexus_jobs_waiting", "smollm2-135m"] == 0
    assert gauges["nexus_jobs_running", "smollm2-135m"] == 0
    assert gauges["nexus_slots_used", "simulated"] == 6
    assert gauges["nexus_slots_total", "simulated"] == 16
    assert gauges["nexus_tokens_per_second", "simulated"] == 25
    assert gauges["nexus_model_memory_bytes", "simulated"] == 4 * 2**20
    assert gauges["nexus_recommended_replicas", "simulated"] == 3
