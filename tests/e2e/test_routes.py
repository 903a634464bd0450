"""A route keeps answering while a model behind it does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.e2e.stack import SIMULATED, Stack, until

FRAIL = {**SIMULATED, "name": "frail", "simulated": {"poison": "bad", "step_ms": 5}}
SOUND = {**SIMULATED, "name": "sound"}
GONE = {"name": "gone", "type": "openvino", "path": "no-such-folder"}


@pytest.fixture(scope="module")
def stack(make_stack) -> Stack:
    made = make_stack([FRAIL, SOUND, GONE])
    made.models.remove("gone")  # nobody has to wait for it: it will not be ready
    made.env["NEXUS_JOBS__MAX_ATTEMPTS"] = "1"
    made.start()
    until(lambda: health(made)["gone"] == "failed")
    return made


def health(stack: Stack) -> dict[str, str]:
    models = stack.http.get("/health/models").json()["data"]
    return {model["name"]: model["state"] for model in models}


def put(stack: Stack, name: str, *targets: str, **config: Any) -> None:
    config["targets"] = [{"model": target} for target in targets]
    config = {"algorithm": "round_robin", "failure_threshold": 3, "open_seconds": 60} | config
    answer = stack.http.put(f"/api/v1/routes/{name}", json=config)
    assert answer.status_code == 200, answer.text


def ask(stack: Stack, route: str, prompt: str) -> tuple[str, str]:
    """The model that was chosen, and what came of the job."""
    job = stack.generate(model=route, prompt=prompt, max_tokens=4, cache="no")
    assert job["route"] == route
    return job["model"], job["state"]


def frail(stack: Stack, route: str) -> dict[str, Any]:
    document = stack.http.get(f"/api/v1/routes/{route}").json()
    return next(model for model in document["models"] if model["model"] == "frail")


def test_traffic_leaves_a_target_that_fails_and_comes_back_by_a_probe(stack: Stack) -> None:
    put(stack, "chat", "frail", "sound")
    ends = Counter(ask(stack, "chat", "bad") for _ in range(20))
    assert ends == {("frail", "dead"): 3, ("sound", "succeeded"): 17}
    assert frail(stack, "chat")["breaker"] == "open"
    put(stack, "chat", "frail", "sound", open_seconds=0.2)
    until(lambda: frail(stack, "chat")["breaker"] == "half_open")
    until(lambda: ask(stack, "chat", "bad") == ("frail", "dead"))
    assert frail(stack, "chat")["failures"] == 4
    until(lambda: ask(stack, "chat", "good") == ("frail", "succeeded"))
    assert frail(stack, "chat")["breaker"] == "closed"
    assert Counter(ask(stack, "chat", "good")[0] for _ in range(6)) == {"frail": 3, "sound": 3}


def test_a_job_that_waits_behind_an_open_breaker_is_told_so(stack: Stack) -> None:
    put(stack, "narrow", "frail")
    for _ in range(3):
        stack.generate(model="frail", prompt="bad", cache="no")
    assert frail(stack, "narrow")["breaker"] == "open"
    batch = {"model": "frail", "prompts": ["good"] * 16, "max_tokens": 2000, "ignore_eos": True}
    filling = stack.http.post(
        "/api/v1/generate/batch", json=batch, headers={"Prefer": "wait=0"}
    ).json()["bulk_id"]
    counts = lambda: stack.http.get(f"/api/v1/bulk/{filling}").json()["counts"]  # noqa: E731
    until(lambda: counts()["running"] == 16)
    job = stack.http.post("/api/v1/jobs", json={"model": "narrow", "prompt": "x"}).json()
    waiting = stack.http.get(f"/api/v1/jobs/{job['id']}").json()["waiting"]
    assert waiting["reason"] == "breaker_open"
    assert "route 'narrow' sends it no more for now" in waiting["detail"]
    stack.http.delete(f"/api/v1/bulk/{filling}")
    until(lambda: stack.http.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "succeeded")


def test_a_fallback_takes_over_from_a_model_that_could_not_be_loaded(stack: Stack) -> None:
    put(stack, "backed", "gone", fallback=["sound"])
    assert ask(stack, "backed", "good") == ("sound", "succeeded")
    bulk = {"model": "backed", "prompts": ["a", "b", "c"], "max_tokens": 4, "cache": "no"}
    answer = stack.http.post("/api/v1/generate/batch", json=bulk)
    assert {(job["model"], job["state"]) for job in answer.json()["data"]} == {
        ("sound", "succeeded")
    }


def test_without_a_fallback_a_route_refuses_or_waits_as_it_is_told(stack: Stack) -> None:
    body = {"model": "alone", "prompt": "x"}
    put(stack, "alone", "gone", otherwise="refuse")
    answer = stack.http.post("/api/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "no_target")
    put(stack, "alone", "gone", otherwise="queue")
    job = stack.http.post("/api/v1/jobs", json=body).json()
    assert (job["model"], job["state"]) == ("gone", "queued")


def test_jobs_that_wait_for_a_model_that_failed_go_to_a_fallback_once_there_is_one(
    stack: Stack,
) -> None:
    put(stack, "late", "gone")
    job = stack.http.post("/api/v1/jobs", json={"model": "late", "prompt": "x"}).json()
    assert (job["model"], job["state"]) == ("gone", "queued")
    put(stack, "late", "gone", fallback=["sound"])
    ended = stack.http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 30}).json()
    assert (ended["model"], ended["state"]) == ("sound", "succeeded")


def test_copies_run_on_the_shadow_and_leave_the_original_alone(stack: Stack) -> None:
    put(stack, "watched", "sound", shadow={"model": "frail", "percent": 100})
    assert ask(stack, "watched", "bad") == ("sound", "succeeded")

    def copies() -> list[dict[str, Any]]:
        jobs = stack.http.get("/api/v1/jobs", params={"shadow": "yes"}).json()["data"]
        return [job for job in jobs if job["finished_at"]]

    (copy,) = until(copies)
    assert (copy["model"], copy["state"]) == ("frail", "dead")
    assert copy["shadow_of"]
