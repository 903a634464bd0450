"""The OpenAPI document tells the truth about the application."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import (
    Action,
    Decision,
    ModelState,
    Recommendation,
    ServedModel,
    WorkerReport,
)
from nexus_jobs.states import Event

DOCUMENTATION = ("/api/v1/docs/", "/api/v1/openapi.json")
"""The paths that show the document stand outside of it."""


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/api/v1/openapi.json")
    assert answer.mimetype == "application/json"
    return answer.json


def test_the_document_is_valid_openapi(document: dict[str, Any]):
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_route_stands_in_the_document_and_nothing_else(app: Flask, document: dict[str, Any]):
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not rule.rule.startswith(DOCUMENTATION)
    }
    described = {
        (path, method.upper()) for path, methods in document["paths"].items() for method in methods
    }
    assert served == described


def _check(document: dict[str, Any], path: str, method: str, answer: TestResponse) -> None:
    """The body has the described shape, no field more and none less."""
    responses = document["paths"][path][method]["responses"]
    described = responses.get(str(answer.status_code), responses["default"])
    schema = described["content"][answer.mimetype]["schema"]
    strict = {"components": _strict(document["components"]), **schema}
    Draft202012Validator(strict).validate(answer.json)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed["additionalProperties"] = False
    return closed


def test_answers_about_the_fleet_have_the_described_shape(
    client: FlaskClient, services: Services, document: dict[str, Any]
):
    def call(path: str, method: str = "get", name: str = "own", **options: Any) -> None:
        answer = getattr(client, method)(path.format(name=name), **options)
        _check(document, path, method, answer)

    served = {"simulated": ServedModel(ModelState.READY, healthy_at=1.0)}
    worker = WorkerReport(id="w1", host="h", pid=1, device="cpu", models=served)
    services.platform.store.report(worker)
    services.schedule.lead("me", seconds=60)
    load = Decision(action=Action.LOAD, model="simulated", worker="w1", reason="backlog")
    services.schedule.decide("me", [load])
    services.schedule.recommend([Recommendation(model="simulated", replicas=2, reason="backlog")])
    models, one = "/api/v1/models", "/api/v1/models/{name}"
    call(models, "post", json={"name": "own", "type": "simulated"})
    call(models, "post", json={"name": "own", "type": "no such type"})
    call(one)
    call(one, name="simulated")
    call(one, name="none")
    for wanted in ("load", "unload", "auto"):
        call(f"{one}/{wanted}", "post")
    call(one, "delete", name="simulated")
    call("/api/v1/workers")
    call("/api/v1/assignments")


def test_real_answers_have_the_described_shape(
    client: FlaskClient, document: dict[str, Any], finish
):
    def call(path: str, method: str = "get", **options: Any) -> Any:
        ids = options.pop("ids", {})
        answer = getattr(client, method)(path.format(**ids), **options)
        _check(document, path.partition("?")[0], method, answer)
        return answer.json

    body = {"model": "simulated", "prompt": "hello", "metadata": {"a": [1]}}
    at_once = {"Prefer": "wait=0"}
    job_path, bulk_path = "/api/v1/jobs/{job_id}", "/api/v1/bulk/{bulk_id}"

    job = call("/api/v1/jobs", "post", json=body)
    finish()
    call(job_path, ids={"job_id": job["id"]})
    call(job_path, "delete", ids={"job_id": job["id"]})
    failing = call("/api/v1/generate", "post", json={**body, "seed": 1}, headers=at_once)
    finish(Event.FAIL)
    call(job_path, ids={"job_id": failing["id"]})
    call("/api/v1/generate", "post", json=body, headers=at_once)
    batch = {"model": "simulated", "prompts": ["a", "b"]}
    call("/api/v1/generate/batch", "post", json=batch, headers=at_once)
    file = (io.BytesIO(b"prompt\nx\n"), "f.csv")
    bulk = call("/api/v1/bulk", "post", data={"model": "simulated", "file": file})
    call(bulk_path, ids={"bulk_id": bulk["id"]})
    finish()
    call(bulk_path, ids={"bulk_id": bulk["id"]})
    call(bulk_path, "delete", ids={"bulk_id": bulk["id"]})
    call("/api/v1/jobs?limit=2")
    config = {
        "targets": [{"model": "simulated"}],
        "fallback": ["smollm2-135m"],
        "shadow": {"model": "simulated", "percent": 1},
    }
    route_path, ids = "/api/v1/routes/{name}", {"name": "chat"}
    call(route_path, "put", ids=ids, json=config)
    call(route_path, "put", ids=ids, json={"targets": [{"model": "chat"}]})
    call("/api/v1/jobs", "post", json={**body, "model": "chat"})
    call("/api/v1/routes")
    call(route_path, ids=ids)
    call(route_path, "delete", ids=ids)
    call(route_path, ids=ids)
    call("/api/v1/jobs", "post", json={"modle": "x"})
    call("/api/v1/jobs", "post", data=b"{")
    for path in ("/api/v1/models", "/health", "/health/live", "/health/ready", "/health/models"):
        call(path)


def test_each_argument_and_field_is_described(document: dict[str, Any]):
    parameters = document["paths"]["/api/v1/jobs"]["get"]["parameters"]
    assert {one["name"] for one in parameters} == {
        *("state", "model", "route", "bulk", "shadow", "limit", "cursor")
    }
    wait = document["paths"]["/api/v1/jobs/{job_id}"]["get"]["parameters"]
    assert [(one["in"], one["name"]) for one in wait] == [("path", "job_id"), ("query", "wait")]
    form = document["components"]["schemas"]["BulkForm"]
    assert form["required"] == ["file", "model"]
    assert "temperature" in form["properties"]


def test_the_page_needs_nothing_from_another_server(client: FlaskClient):
    page = client.get("/api/v1/docs", follow_redirects=True)
    assert page.status_code == 200
    assert "/api/v1/openapi.json" in page.text
    assert '"validatorUrl": null' in page.text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) >= 4
    assert all(asset.startswith("/api/v1/docs/") for asset in assets)
    for asset in assets:
        with client.get(asset) as answer:
            assert answer.status_code == 200
