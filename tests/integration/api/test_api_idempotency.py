"""Submissions that are repeated under an `Idempotency-Key`, over HTTP."""

from __future__ import annotations

import io
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.routes import ROUTES
from nexus_jobs.adapters import schema
from nexus_jobs.adapters.sql_store import SqlStore
from nexus_jobs.bootstrap import Services, connect_memory, services_on
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import JobFilter

BODY = {"model": "simulated", "prompt": "hello"}
KEY = "8e03978e-40d5-43dd-bc93-6894a57f9324"
NOW = {"Prefer": "wait=0"}
REPLAYED = "Idempotency-Replayed"
PATHS = pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/generate"])


def post(
    client: FlaskClient, path: str = "/api/v1/jobs", key: str = KEY, **fields: Any
) -> TestResponse:
    headers = {"Idempotency-Key": key, **NOW}
    return client.post(path, json={**BODY, **fields}, headers=headers)


def listed(client: FlaskClient) -> list[str]:
    return [job["id"] for job in client.get("/api/v1/jobs").json["data"]]


@PATHS
def test_a_key_keeps_its_promise_whatever_becomes_of_the_model(client: FlaskClient, path: str):
    client.post("/api/v1/models", json={"name": "own", "type": "simulated"})
    first = post(client, path, model="own").json["id"]
    client.delete(f"/api/v1/jobs/{first}")
    assert client.delete("/api/v1/models/own").status_code == 204
    again = post(client, path, model="own")
    assert (again.json["id"], again.headers[REPLAYED]) == (first, "true")
    other = post(client, path, model="own", prompt="bye")
    assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
    new = post(client, path, key="new", model="own")
    assert (new.status_code, new.json["code"]) == (422, "unknown_model")


@PATHS
def test_a_repeated_request_gives_the_first_answer_again(client: FlaskClient, path: str):
    first, again = post(client, path), post(client, path)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json == first.json
    assert again.headers["Location"] == first.headers["Location"]
    assert (first.headers.get(REPLAYED), again.headers[REPLAYED]) == (None, "true")
    assert listed(client) == [first.json["id"]]


@PATHS
def test_another_body_under_the_key_is_refused(client: FlaskClient, path: str):
    first = post(client, path)
    other = post(client, path, prompt="goodbye")
    assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
    assert "a new key" in other.json["detail"]
    assert other.json["errors"][0]["field"] == "Idempotency-Key"
    assert listed(client) == [first.json["id"]]


def test_a_repetition_shows_the_job_as_it_is_now(client: FlaskClient, finish):
    job = post(client).json
    finish()
    submitted, generated = post(client), post(client, "/api/v1/generate")
    assert (submitted.status_code, generated.status_code) == (202, 200)
    for answer in (submitted, generated):
        assert (answer.json["id"], answer.json["result"]["text"]) == (job["id"], "HELLO")
        assert answer.headers[REPLAYED] == "true"


def test_a_repetition_waits_for_a_job_that_is_under_way(client: FlaskClient, finish):
    job = post(client).json
    later = threading.Timer(0.1, finish)
    later.start()
    answer = client.post("/api/v1/generate", json=BODY, headers={"Idempotency-Key": KEY})
    later.join()
    assert (answer.status_code, answer.json["id"]) == (200, job["id"])


def test_another_spelling_of_the_body_is_the_same_body(client: FlaskClient):
    headers = {"Idempotency-Key": KEY, "Content-Type": "application/json"}
    spellings = (
        b'{"model":"simulated","prompt":"hello","stop":"x"}',
        b'{ "stop": ["x"],\n "prompt": "hell\\u006f", "model": "simulated", "top_p": 1 }',
    )
    first, second = (
        client.post("/api/v1/jobs", data=spelling, headers=headers) for spelling in spellings
    )
    assert first.json["id"] == second.json["id"]


def test_another_key_makes_another_job(client: FlaskClient):
    keys = ("a", "A", "a, b", " a b ", "a" * 255)
    assert len({post(client, key=key).json["id"] for key in keys}) == len(keys)


def test_a_refused_request_does_not_use_up_its_key(client: FlaskClient):
    assert post(client, prompt="").status_code == 422
    assert post(client).status_code == 202


def test_a_key_is_new_again_after_a_day(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
):
    store = services.platform.store
    add = store.add
    kept_for = []

    def a_day_later(drafts: Any, *given: Any, **named: Any) -> Any:
        kept_for.extend(draft.idempotency.seconds for draft in drafts)
        over = [replace(d, idempotency=replace(d.idempotency, seconds=-1.0)) for d in drafts]
        return add(over, *given, **named)

    monkeypatch.setattr(store, "add", a_day_later)
    first = post(client)
    monkeypatch.undo()
    second = post(client, prompt="goodbye")
    assert kept_for == [24 * 3600]
    assert (second.status_code, REPLAYED in second.headers) == (202, False)
    assert listed(client) == [second.json["id"], first.json["id"]]


@PATHS
@pytest.mark.parametrize("key", ["", "  ", "a" * 256, "a\x00b", "a\tb", "caf\xe9", "\x7f"])
def test_a_key_that_cannot_be_is_refused(client: FlaskClient, path: str, key: str):
    answer = client.post(
        path, json=BODY, environ_overrides={"HTTP_IDEMPOTENCY_KEY": key}, headers=NOW
    )
    assert (answer.status_code, answer.json["code"]) == (422, "invalid_idempotency_key")
    assert "1 to 255 printable ASCII characters" in answer.json["detail"]
    assert listed(client) == []


@pytest.mark.parametrize(
    "route",
    [r for r in ROUTES if r.method == "POST" and r.name not in ("submit_job", "generate")],
    ids=lambda route: route.name,
)
def test_no_other_path_ignores_a_key(client: FlaskClient, route):
    parts = {"json": {"model": "simulated", "prompts": ["a"]}} if route.body else {
        "data": {"model": "simulated", "file": (io.BytesIO(b"prompt\nx\n"), "f.csv")}
    }  # fmt: skip
    path = re.sub("<uuid:.*?>", str(uuid.uuid4()), route.path)
    answer = client.post(path, headers={"Idempotency-Key": KEY, **NOW}, **parts)
    assert (answer.status_code, answer.json["code"]) == (422, "unexpected_idempotency_key")
    assert "POST /api/v1/jobs and POST /api/v1/generate" in answer.json["detail"]
    assert listed(client) == []


def test_the_document_shows_where_a_key_is_taken(client: FlaskClient):
    paths = client.get("/api/v1/openapi.json").json["paths"]
    takers = {
        path
        for path, methods in paths.items()
        for operation in methods.values()
        if "Idempotency-Key" in [one["name"] for one in operation["parameters"]]
    }
    assert takers == {"/api/v1/jobs", "/api/v1/generate"}


@pytest.fixture
def two_apis(url: str) -> Iterator[list[Services]]:
    """Two API processes' services on one database."""
    schema.upgrade(url)
    model = ModelConfig(name="simulated", type="simulated", max_sequence_length=512)
    with ExitStack() as stack:
        both = []
        for _ in range(2):
            store = SqlStore(url, pool_size=4)
            store.sync_models([model])
            both.append(services_on(replace(connect_memory([model]), store=store)))
            stack.callback(both[-1].close)
        yield both


@PATHS
def test_fifty_at_once_in_two_processes_make_one_job(two_apis: list[Services], path: str):
    apps = [create_app(services) for services in two_apis]
    together = threading.Barrier(50)

    def send(number: int) -> TestResponse:
        together.wait()
        return post(apps[number % 2].test_client(), path)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert sum(REPLAYED not in answer.headers for answer in answers) == 1
    stored = two_apis[0].platform.store.search(JobFilter(), limit=10)
    assert [job.id for job in stored] == [answers[0].json["id"]]


def test_of_fifty_bodies_at_once_under_one_key_one_is_accepted(two_apis: list[Services]):
    apps = [create_app(services) for services in two_apis]

    def send(number: int) -> int:
        return post(apps[number % 2].test_client(), prompt=f"prompt {number}").status_code

    with ThreadPoolExecutor(50) as pool:
        assert sorted(pool.map(send, range(50))) == [202] + [422] * 49
    assert len(two_apis[0].platform.store.search(JobFilter(), limit=10)) == 1
