"""Failed and dead jobs over HTTP: found, changed, and run again."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from nexus_jobs.states import Event

BODY = {"model": "simulated", "prompt": "hello", "max_tokens": 8, "priority": 3}


def ended(client: FlaskClient, finish: Any, event: Event, **fields: Any) -> str:
    """The path of a job that has ended so."""
    path = client.post("/api/v1/jobs", json={**BODY, **fields}).headers["Location"]
    finish(event)
    return path


@pytest.mark.parametrize("event", [Event.FAIL, Event.BURY])
def test_a_failed_or_dead_job_runs_again_as_it_was(client: FlaskClient, finish, event: Event):
    path = ended(client, finish, event)
    before = client.get(path).json
    assert before["error"] == {"code": "engine_error", "message": "it broke", "trace": None}
    answer = client.post(f"{path}/retry")
    assert (answer.status_code, answer.json["state"]) == (202, "queued")
    assert answer.headers["Location"] == path
    finish()
    after = client.get(path).json
    assert (after["state"], after["attempt"], after["error"]) == ("succeeded", 2, None)
    assert (after["result"]["text"], after["id"]) == ("HELLO", before["id"])


def test_a_retry_may_change_what_was_asked_for(client: FlaskClient, finish):
    path = ended(client, finish, Event.FAIL)
    answer = client.post(f"{path}/retry", json={"prompt": "bye", "priority": 0})
    assert (answer.status_code, answer.json["priority"]) == (202, 0)
    (job,) = finish()
    assert (job.request.prompt, job.request.params.max_tokens) == ("bye", 8)


def test_a_prompt_may_become_a_chat(client: FlaskClient, finish):
    path = ended(client, finish, Event.FAIL)
    chat = [{"role": "user", "content": "bye"}]
    assert client.post(f"{path}/retry", json={"messages": chat}).status_code == 202
    (job,) = finish()
    assert job.request.prompt is None
    assert job.request.messages is not None
    assert job.request.messages[0].content == "bye"


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"max_token": 3}, "max_token", "unknown_field"),
        ({"max_tokens": "3"}, "max_tokens", "invalid_value"),
        ({"max_tokens": 100_000}, "max_tokens", "out_of_range"),
        ({"model": "unknown"}, "model", "unknown_model"),
        ({"prompt": " "}, "prompt", "empty_prompt"),
        ({"seed": 10**30}, "seed", "out_of_range"),
        ({"metadata": {"n": 10**30}}, "metadata", "invalid_value"),
        ({"expires_in": float("nan")}, "expires_in", "out_of_range"),
        ([1], None, "invalid_value"),
    ],
)
def test_a_change_that_can_never_run_is_refused(
    client: FlaskClient, finish, changes: Any, field: str | None, code: str
):
    path = ended(client, finish, Event.FAIL)
    answer = client.post(f"{path}/retry", json=changes)
    assert answer.status_code == 422
    assert [(e["field"], e["code"]) for e in answer.json["errors"]] == [(field, code)]
    assert client.get(path).json["state"] == "failed"


def test_only_what_failed_can_be_retried(client: FlaskClient, finish):
    path = ended(client, finish, Event.SUCCEED)
    answer = client.post(f"{path}/retry")
    assert (answer.status_code, answer.json["code"]) == (409, "conflict")
    assert "succeeded" in answer.json["detail"]
    waiting = client.post("/api/v1/jobs", json=BODY | {"cache": "no"}).headers["Location"]
    assert client.post(f"{waiting}/retry").status_code == 409
    unknown = "/api/v1/jobs/01890000-0000-7000-8000-000000000000/retry"
    assert client.post(unknown).status_code == 404


def test_a_row_that_could_never_run_is_not_retried_as_another_than_it_was(client: FlaskClient):
    upload = {"file": (BytesIO(b'prompt\n""\n'), "in.csv"), "model": "simulated"}
    bulk = client.post("/api/v1/bulk", data={**upload, "max_tokens": "3"}).json["id"]
    (row,) = client.get(f"/api/v1/jobs?bulk={bulk}").json["data"]
    for changes in ({}, {"prompt": "hello"}):
        answer = client.post(f"/api/v1/jobs/{row['id']}/retry", json=changes)
        assert (answer.status_code, answer.json["code"]) == (409, "conflict")
        assert "submit it anew" in answer.json["detail"]


def test_changes_that_come_in_pieces_are_not_overlooked(client: FlaskClient, finish):
    path = ended(client, finish, Event.FAIL)
    answer = client.post(
        f"{path}/retry",
        input_stream=BytesIO(b'{"prompt": "bye"}'),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert (answer.status_code, client.get(path).json["state"]) == (415, "failed")


def test_dead_jobs_can_be_listed(client: FlaskClient, finish):
    ended(client, finish, Event.FAIL)
    dead = ended(client, finish, Event.BURY)
    listed = client.get("/api/v1/jobs?state=dead").json["data"]
    assert [job["id"] for job in listed] == [dead.rpartition("/")[2]]


def test_a_bulk_runs_again_what_failed_and_keeps_its_order(client: FlaskClient, finish):
    upload = {"file": (BytesIO(b'prompt\na\n""\nb\nc\n'), "in.csv"), "model": "simulated"}
    path = client.post("/api/v1/bulk", data=upload).headers["Location"]
    finish(Event.FAIL, 2)
    finish(Event.SUCCEED, 1)
    assert client.get(path).json["state"] == "completed"
    answer = client.post(f"{path}/retry")
    assert (answer.status_code, answer.json["counts"]["queued"]) == (202, 2)
    finish()
    counts = client.get(path).json["counts"]
    assert (counts["succeeded"], counts["failed"], counts["queued"]) == (3, 1, 0)
    output = client.get(f"{path}/output").text.splitlines()[1:]
    assert [line.partition(",")[0] for line in output] == ["a", "", "b", "c"]
    assert [line.split(",")[1] for line in output] == ["A", "", "B", "C"]
    again = client.post(f"{path}/retry")
    assert (again.status_code, again.json["code"]) == (409, "conflict")
