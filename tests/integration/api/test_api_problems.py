"""Every mistake a client makes is answered by a problem document that helps to correct it."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from api import parsing
from api.routes import ROUTES
from nexus_jobs.bootstrap import Services
from nexus_jobs.submission import Submission

BODY = {"model": "simulated", "prompt": "hello"}
NO_ID = "0197a5c2-0000-7000-8000-00000000dead"


def expect(answer: TestResponse, status: int, code: str, words: str, field: str | None = None):
    """Check a problem document; `words` is a part of what it tells the client."""
    problem = answer.json
    assert answer.mimetype == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert words in problem["detail"]
    if field is not None:
        assert (field, code) in [(error["field"], error["code"]) for error in problem["errors"]]
        assert any(words in error["message"] for error in problem["errors"])


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/generate"])
@pytest.mark.parametrize(
    ("fields", "code", "field", "words"),
    [
        ({"model": None}, "invalid_value", "model", "should be a valid string"),
        ({"model": "simulatd"}, "unknown_model", "model", "did you mean 'simulated'?"),
        ({"model": "\x00"}, "unknown_model", "model", "smollm2-135m"),
        ({"prompt": ""}, "empty_prompt", "prompt", "must not be empty"),
        ({"prompt": " \n"}, "empty_prompt", "prompt", "must not be empty"),
        ({"prompt": 7}, "invalid_value", "prompt", "should be a valid string"),
        ({"prompt": "a\x00b"}, "invalid_character", "prompt", "NUL"),
        ({"prompt": "word " * 5000}, "prompt_too_long", "prompt", "512"),
        ({"temperature": -1}, "out_of_range", "temperature", "greater than or equal to 0"),
        ({"temperature": "0.5"}, "invalid_value", "temperature", "valid number"),
        ({"temperatur": 0.5}, "unknown_field", "temperatur", "did you mean 'temperature'?"),
        ({"max_tokens": 1_000_000}, "out_of_range", "max_tokens", "512"),
        ({"max_tokens": 0}, "out_of_range", "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "invalid_value", "max_tokens", "valid integer"),
        ({"max_tokens": True}, "invalid_value", "max_tokens", "valid integer"),
        ({"top_p": 0}, "out_of_range", "top_p", "greater than or equal to 0.000001"),
        ({"priority": 10}, "out_of_range", "priority", "less than or equal to 9"),
        ({"seed": -1}, "out_of_range", "seed", "greater than or equal to 0"),
        ({"stop": [""]}, "out_of_range", "stop.0", "at least 1 character"),
        ({"expires_in": 0}, "out_of_range", "expires_in", "greater than 0"),
        ({"expires_in": float("inf")}, "out_of_range", "expires_in", "finite"),
        ({"cache": "maybe"}, "invalid_value", "cache", "'yes' or 'no'"),
        ({"metadata": {"n": 10**30}}, "invalid_value", "metadata", "64"),
        ({"metadata": [1]}, "invalid_value", "metadata", "object"),
    ],
)
def test_a_wrong_field_is_named_with_what_would_be_right(
    client: FlaskClient, path: str, fields: dict[str, Any], code: str, field: str, words: str
):
    answer = client.post(path, json={**BODY, **fields}, headers={"Prefer": "wait=0"})
    expect(answer, 422, code, words, field)


def test_everything_that_is_wrong_is_said_at_once(client: FlaskClient):
    answer = client.post("/api/v1/jobs", json={"prompt": "x", "temperature": -1, "modle": "m"})
    expect(answer, 422, "invalid_request", "`model` is required")
    codes = {(error["field"], error["code"]) for error in answer.json["errors"]}
    assert codes == {
        ("model", "missing_field"),
        ("temperature", "out_of_range"),
        ("modle", "unknown_field"),
    }


@pytest.mark.parametrize("extra", [{"messages": [{"role": "user", "content": "x"}]}, {}])
def test_a_prompt_or_a_chat_and_not_both(client: FlaskClient, extra: dict[str, Any]):
    body = {**BODY, **extra} if extra else {"model": "simulated"}
    answer = client.post("/api/v1/jobs", json=body)
    expect(answer, 422, "invalid_value", "either `prompt` or `messages`, and not both")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is empty; send a JSON object"),
        (b"  \n", "the body is empty; send a JSON object"),
        (b'{"model": "simulated",', "not valid JSON"),
        (b"{'model': 'simulated'}", "line 1 column 2"),
        (b'{"model": "simulated", "prompt": "caf\xe9"}', "not valid JSON"),
        (b'\xff\xfe{\x00}\x00"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_body_that_is_not_json_is_400(client: FlaskClient, body: bytes, words: str):
    answer = client.post("/api/v1/jobs", data=body, content_type="application/json")
    expect(answer, 400, "invalid_json", words)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"17"])
def test_json_that_is_no_object_is_refused(client: FlaskClient, body: bytes):
    answer = client.post("/api/v1/jobs", data=body, content_type="application/json")
    expect(answer, 422, "invalid_value", "should be an object")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("path", ["/jobs", "/generate", "/generate/batch"])
def test_another_content_type_is_415(client: FlaskClient, path: str, content_type: str | None):
    answer = client.post(f"/api/v1{path}", data=b'{"model": "x"}', content_type=content_type)
    expect(answer, 415, "unsupported_media_type", "send application/json")


def test_a_batch_without_prompts_is_refused(client: FlaskClient):
    answer = client.post("/api/v1/generate/batch", json={"model": "simulated", "prompts": []})
    expect(answer, 422, "out_of_range", "at least 1 item", "prompts")


def test_a_wrong_prompt_in_a_batch_refuses_the_batch(client: FlaskClient):
    body = {"model": "simulated", "prompts": ["fine", ""]}
    answer = client.post("/api/v1/generate/batch", json=body)
    expect(answer, 422, "empty_prompt", "must not be empty")
    assert client.get("/api/v1/jobs").json["data"] == []


@pytest.mark.parametrize("wait", ["61", "-1", "abc", "nan", "inf", "", "1e400"])
def test_a_wait_that_cannot_be_is_a_problem_and_not_ignored(client: FlaskClient, wait: str):
    answer = client.get(f"/api/v1/jobs/{NO_ID}?wait={wait}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == ["wait"]


@pytest.mark.parametrize("prefer", ["wait=61", "wait=-1", "wait=abc", "wait", "wait=1.5"])
def test_a_preferred_wait_that_cannot_be_submits_nothing(client: FlaskClient, prefer: str):
    answer = client.post("/api/v1/generate", json=BODY, headers={"Prefer": prefer})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json["errors"]] == ["Prefer: wait"]
    assert client.get("/api/v1/jobs").json["data"] == []


@pytest.mark.parametrize(
    ("query", "code", "field", "words"),
    [
        ("staet=queued", "unknown_field", "staet", "did you mean 'state'?"),
        ("state=done", "invalid_value", "state", "'succeeded'"),
        ("limit=0", "out_of_range", "limit", "greater than or equal to 1"),
        ("limit=201", "out_of_range", "limit", "less than or equal to 200"),
        ("limit=many", "invalid_value", "limit", "valid integer"),
        ("cursor=next", "invalid_value", "cursor", "UUID"),
        ("bulk=mine", "invalid_value", "bulk", "UUID"),
        ("limit=1&limit=2", "duplicate_field", "limit", "give it once"),
    ],
)
def test_a_wrong_query_parameter_is_refused(
    client: FlaskClient, query: str, code: str, field: str, words: str
):
    expect(client.get(f"/api/v1/jobs?{query}"), 422, code, words, field)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_no_path_ignores_a_query_parameter_it_does_not_know(client: FlaskClient, route):
    path = route.path.replace("<uuid:job_id>", NO_ID).replace("<uuid:bulk_id>", NO_ID)
    answer = client.open(f"{path}?wiat=1", method=route.method)
    expect(answer, 422, "unknown_field", "unknown field `wiat`", "wiat")


@pytest.mark.parametrize(
    "job_id", ["abc", "a" * 5000, "%00", "..%2f..", "%F0%9F%98%80", NO_ID[:-1]]
)
@pytest.mark.parametrize("path", ["/jobs/{}", "/bulk/{}", "/bulk/{}/output"])
def test_an_id_that_is_no_uuid_is_not_found(client: FlaskClient, path: str, job_id: str):
    answer = client.get("/api/v1" + path.format(job_id))
    expect(answer, 404, "unknown_path", "ids are UUIDs")
    assert len(answer.json["detail"]) < 300


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/job", "/api/v2/jobs", "/health/x"])
def test_an_unknown_path_points_to_the_documentation(client: FlaskClient, path: str):
    expect(client.get(path), 404, "unknown_path", "/api/v1/docs")


def test_a_wrong_method_is_405_and_says_which_are_right(client: FlaskClient):
    answer = client.put("/api/v1/jobs", json=BODY)
    expect(answer, 405, "method_not_allowed", "PUT")
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_a_body_that_is_too_large_is_413(client: FlaskClient):
    answer = client.post("/api/v1/jobs", json={**BODY, "prompt": "x" * (33 * 2**20)})
    expect(answer, 413, "body_too_large", str(32 * 2**20))


def test_a_defect_of_ours_is_500_logged_and_tells_the_client_nothing(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(services.jobs, "get", broken)
    with structlog.testing.capture_logs() as logs:
        answer = client.get(f"/api/v1/jobs/{NO_ID}")
    expect(answer, 500, "internal_error", "on our side")
    assert "secret" not in answer.text
    assert isinstance(logs[0]["exc_info"], RuntimeError)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["simulated", "yes", 10**400, -(2**63) - 1, "\x00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
field_names = st.sampled_from([*Submission.model_fields, "prompts"])
fields = st.dictionaries(field_names, json_values, max_size=3) | st.fixed_dictionaries(
    {"metadata": st.dictionaries(st.text(), json_values, max_size=4)}
)
bodies = json_values | st.builds(
    lambda extra: {"model": "simulated", "prompt": "p", **extra}, fields
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=bodies, path=st.sampled_from(["/jobs", "/generate/batch"]))
def test_no_json_ever_breaks_the_server(app: Flask, body: Any, path: str):
    client = app.test_client()
    answer = client.post(
        f"/api/v1{path}",
        data=json.dumps(body),
        content_type="application/json",
        headers={"Prefer": "wait=0"},
    )
    assert answer.status_code in (202, 400, 422), answer.text
    if answer.status_code == 202:
        assert client.get(answer.headers["Location"]).status_code == 200
    else:
        assert answer.json["detail"]


def pieces(client: FlaskClient, body: bytes) -> TestResponse:
    return client.post(
        "/api/v1/jobs",
        input_stream=io.BytesIO(body),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )


def test_a_body_that_comes_in_pieces_has_the_same_limit(client: FlaskClient, monkeypatch):
    body = json.dumps(BODY).encode()
    assert pieces(client, body).status_code == 202
    monkeypatch.setattr(parsing, "JSON_BODY_BYTES", len(body) - 5)
    expect(pieces(client, body), 413, "body_too_large", f"{len(body) - 5} bytes")


def test_a_body_that_ends_early_is_not_taken_for_the_whole(client: FlaskClient):
    body = json.dumps(BODY).encode()
    answer = client.post(
        "/api/v1/jobs",
        input_stream=io.BytesIO(body),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "100", "wsgi.input_terminated": True},
    )
    expect(answer, 400, "invalid_json", f"ends after {len(body)} of the 100 bytes")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("jobs?model=a%00b", 422, "invalid_character"),
        ("jobs?route=%00", 422, "invalid_character"),
        ("models/a%00b", 404, "unknown_path"),
        ("routes/a%00b", 404, "unknown_path"),
    ],
)
def test_no_name_has_nul(client: FlaskClient, path: str, status: int, code: str):
    answer = client.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.json["code"]) == (status, code)


@pytest.mark.parametrize(
    ("prompts", "code"), [(["a", ""], "empty_prompt"), (["a", "\0"], "invalid_character"),
                          (["a", "word " * 5000], "prompt_too_long")]
)  # fmt: skip
def test_the_wrong_one_of_several_prompts_is_named(client: FlaskClient, prompts: Any, code: str):
    body = {"model": "simulated", "prompts": prompts}
    expect(client.post("/api/v1/generate/batch", json=body), 422, code, "", "prompts.1")
