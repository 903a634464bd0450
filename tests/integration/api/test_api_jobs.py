"""Jobs over HTTP: submitted, watched, listed, cancelled, generated."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient

from nexus_jobs.bootstrap import Services
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.states import Event

BODY = {"model": "simulated", "prompt": "hello"}


def submit(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json={**BODY, **fields})
    assert answer.status_code == 202, answer.text
    return answer.json


def test_a_submitted_job_is_accepted_and_found_at_its_location(client: FlaskClient):
    answer = client.post("/api/v1/jobs", json={**BODY, "priority": 2, "metadata": {"n": 1}})
    assert answer.status_code == 202
    job = answer.json
    assert (job["state"], job["priority"], job["metadata"]) == ("queued", 2, {"n": 1})
    assert answer.headers["Location"].endswith(f"/api/v1/jobs/{job['id']}")
    found = client.get(answer.headers["Location"]).json
    assert found | {"waiting": None} == job


def test_a_chat_is_accepted_in_place_of_a_prompt(client: FlaskClient):
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}]}
    assert client.post("/api/v1/jobs", json=body).status_code == 202


def test_an_ended_job_shows_its_result(client: FlaskClient, finish):
    job = submit(client)
    finish()
    job = client.get(f"/api/v1/jobs/{job['id']}").json
    assert (job["state"], job["worker"], job["attempt"]) == ("succeeded", "w1", 1)
    assert job["result"]["text"] == "HELLO"
    assert job["timings"]["prefill_ms"] == 1.5


def test_an_id_in_capitals_is_the_same_id(client: FlaskClient):
    job = submit(client)
    found = client.get(f"/api/v1/jobs/{job['id'].upper()}").json
    assert found["id"] == job["id"]


def test_a_queued_job_tells_what_it_waits_for_and_an_ended_one_does_not(
    client: FlaskClient, finish
):
    submit(client)
    job = submit(client, prompt="another")
    waiting = client.get(f"/api/v1/jobs/{job['id']}").json["waiting"]
    assert (waiting["position"], waiting["reason"]) == (1, "no_worker")
    assert waiting["estimated_start_seconds"] is None
    finish()
    finish()
    assert client.get(f"/api/v1/jobs/{job['id']}").json["waiting"] is None


def test_waiting_is_over_as_soon_as_the_job_has_ended(client: FlaskClient, finish):
    job = submit(client)
    later = threading.Timer(0.1, finish)
    later.start()
    began = time.monotonic()
    answer = client.get(f"/api/v1/jobs/{job['id']}?wait=30")
    later.join()
    assert answer.json["state"] == "succeeded"
    assert time.monotonic() - began < 10


def test_waiting_that_runs_out_gives_the_job_as_it_stands(client: FlaskClient):
    job = submit(client)
    answer = client.get(f"/api/v1/jobs/{job['id']}?wait=0.05")
    assert (answer.status_code, answer.json["state"]) == (200, "queued")


def test_the_same_deterministic_request_is_answered_from_the_cache(client: FlaskClient, finish):
    submit(client)
    finish()
    again = client.post("/api/v1/jobs", json=BODY)
    assert again.status_code == 202
    assert again.json["state"] == "succeeded"
    assert again.json["cached"] != "no"
    assert submit(client, cache="no")["state"] == "queued"


def test_pages_show_every_job_once_newest_first(client: FlaskClient):
    made = [submit(client, prompt=f"p{n}")["id"] for n in range(5)]
    seen, cursor, pages = [], "", 0
    while cursor is not None:
        page = client.get("/api/v1/jobs?limit=2" + (f"&cursor={cursor}" if cursor else "")).json
        seen += [job["id"] for job in page["data"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert seen == made[::-1]
    assert pages == 3


def test_a_last_page_that_is_full_has_no_next(client: FlaskClient):
    submit(client)
    submit(client)
    assert client.get("/api/v1/jobs?limit=2").json["next_cursor"] is None


def test_a_list_can_be_narrowed_to_state_model_and_bulk(client: FlaskClient, finish):
    done = submit(client)
    finish()
    waiting = submit(client, prompt="other")
    bulk = client.post(
        "/api/v1/generate/batch",
        json={"model": "simulated", "prompts": ["in a bulk"]},
        headers={"Prefer": "wait=0"},
    ).json

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/api/v1/jobs?{query}").json["data"]]

    assert ids("state=succeeded") == [done["id"]]
    assert ids(f"bulk={bulk['bulk_id']}") == [bulk["data"][0]["id"]]
    assert ids("state=queued&model=simulated") == [bulk["data"][0]["id"], waiting["id"]]
    assert ids("model=smollm2-135m") == []


def test_a_cancelled_job_stays_cancelled_and_an_ended_one_refuses(client: FlaskClient, finish):
    path = f"/api/v1/jobs/{submit(client)['id']}"
    for _ in range(2):
        answer = client.delete(path)
        assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
    ended = submit(client, prompt="another")
    finish()
    refused = client.delete(f"/api/v1/jobs/{ended['id']}")
    assert (refused.status_code, refused.json["code"]) == (409, "conflict")


@pytest.mark.parametrize(("method", "query"), [("GET", ""), ("GET", "?wait=0.01"), ("DELETE", "")])
def test_a_job_that_does_not_exist_is_not_found(client: FlaskClient, method: str, query: str):
    answer = client.open(f"/api/v1/jobs/{uuid.uuid4()}{query}", method=method)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_generate_answers_200_with_the_ended_job(client: FlaskClient, finish):
    later = threading.Timer(0.1, finish)
    later.start()
    answer = client.post("/api/v1/generate", json=BODY)
    later.join()
    assert (answer.status_code, answer.json["result"]["text"]) == (200, "HELLO")
    assert "Preference-Applied" not in answer.headers


def test_generate_answers_200_also_for_a_job_that_failed(client: FlaskClient, finish):
    later = threading.Timer(0.1, finish, [Event.FAIL])
    later.start()
    answer = client.post("/api/v1/generate", json=BODY)
    later.join()
    assert (answer.status_code, answer.json["error"]["code"]) == (200, "engine_error")


@pytest.mark.parametrize(
    "prefer",
    [
        "wait=0",
        "respond-async, Wait=0",
        "handling=lenient,wait=0",
        "wait=0; foo=bar",
        'wait="0", wait=5',
    ],
)
def test_generate_answers_202_when_the_preferred_wait_runs_out(client: FlaskClient, prefer: str):
    answer = client.post("/api/v1/generate", json=BODY, headers={"Prefer": prefer})
    assert (answer.status_code, answer.json["state"]) == (202, "queued")
    assert answer.headers["Preference-Applied"] == "wait=0"
    assert answer.headers["Location"].endswith(f"/api/v1/jobs/{answer.json['id']}")


def test_a_batch_is_answered_in_the_order_of_its_prompts(client: FlaskClient, finish):
    prompts = [f"p{n}" for n in range(10)]
    done = threading.Event()

    def work() -> None:
        while not done.is_set() and not finish():
            done.wait(0.01)

    worker = threading.Thread(target=work)
    worker.start()
    answer = client.post(
        "/api/v1/generate/batch",
        json={"model": "simulated", "prompts": prompts, "max_tokens": 8},
        headers={"Prefer": "wait=20"},
    )
    done.set()
    worker.join()
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=20")
    assert [job["result"]["text"] for job in answer.json["data"]] == [p.upper() for p in prompts]
    assert {job["bulk_id"] for job in answer.json["data"]} == {answer.json["bulk_id"]}


def test_a_batch_that_takes_longer_points_to_its_bulk(client: FlaskClient):
    body = {"model": "simulated", "prompts": ["a", "b"]}
    answer = client.post("/api/v1/generate/batch", json=body, headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    bulk = client.get(answer.headers["Location"]).json
    assert (bulk["id"], bulk["total"]) == (answer.json["bulk_id"], 2)


def test_a_database_that_is_away_is_503_with_an_invitation_to_come_back(
    client: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
):
    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(services.platform.store, "add", away)
    answer = client.post("/api/v1/jobs", json=BODY)
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
