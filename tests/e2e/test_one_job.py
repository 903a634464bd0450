"""One request at a time, through the whole platform with a real model."""

import re

import httpx
import pytest

from tests.e2e.stack import until

pytestmark = pytest.mark.model

MODEL = "smollm2-135m"


def test_a_submitted_job_is_answered_by_the_model(stack):
    body = {"model": MODEL, "prompt": "What is the capital of France?", "max_tokens": 24}
    accepted = stack.http.post("/api/v1/jobs", json=body | {"cache": "no"})
    assert accepted.status_code == 202
    job = stack.http.get(accepted.headers["Location"], params={"wait": 60}).json()
    assert job["state"] == "succeeded"
    assert "Paris" in job["result"]["text"]
    usage = job["result"]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] <= 200
    assert job["timings"]["total_ms"] >= job["timings"]["decode_ms"] > 0
    assert stack.sql(f"SELECT count(*) FROM results WHERE job_id = '{job['id']}'") == [(1,)]


def test_generate_waits_for_the_answer(stack):
    job = stack.generate(model=MODEL, prompt="Say hello.", max_tokens=8, cache="no")
    assert (job["state"], job["cached"]) == ("succeeded", "no")


def test_a_chat_goes_through_the_models_template(stack):
    chat = [
        {"role": "system", "content": "You answer with one word."},
        {"role": "user", "content": "What is the capital of Italy?"},
    ]
    job = stack.generate(model=MODEL, messages=chat, max_tokens=16)
    assert "Rome" in job["result"]["text"]


def test_a_stop_string_ends_the_text_before_it(stack):
    options = {"model": MODEL, "prompt": "Count from one to ten in digits.", "cache": "no"}
    whole = stack.generate(**options, max_tokens=32)["result"]["text"]
    stop = whole[len(whole) // 2 :][:3]
    job = stack.generate(**options, max_tokens=32, stop=stop)
    assert job["result"]["text"] == whole[: whole.index(stop)]
    assert job["result"]["finish_reason"] == "stop"


def test_min_tokens_and_ignore_eos_keep_the_model_going(stack):
    options = {"model": MODEL, "prompt": "Answer with yes.", "max_tokens": 40, "cache": "no"}
    ignoring = stack.generate(**options, ignore_eos=True)["result"]
    assert (ignoring["usage"]["completion_tokens"], ignoring["finish_reason"]) == (40, "length")
    at_least = stack.generate(**options, min_tokens=30)["result"]
    assert at_least["usage"]["completion_tokens"] >= 30


def test_the_same_request_is_answered_from_the_cache(stack):
    body = {"model": MODEL, "prompt": "Name a colour.", "max_tokens": 6}
    first = stack.generate(**body)
    second = stack.http.post("/api/v1/jobs", json=body)
    assert second.status_code == 202
    hit = second.json()
    assert hit["state"] == "succeeded"
    assert hit["cached"] in ("memory", "redis")
    assert hit["result"]["text"] == first["result"]["text"]
    assert stack.generate(**body, cache="no")["cached"] == "no"


def test_a_batch_answers_in_order(stack):
    body = {"model": "simulated", "prompts": [f"number {i}" for i in range(40)], "cache": "no"}
    answer = stack.http.post("/api/v1/generate/batch", json=body)
    assert answer.status_code == 200
    texts = [job["result"]["text"] for job in answer.json()["data"]]
    assert all(f"number {i}" in text for i, text in enumerate(texts))


def test_a_running_job_leaves_the_batch_when_it_is_cancelled(stack):
    body = {"model": "slow", "prompt": "on and on", "max_tokens": 2000, "ignore_eos": True}
    job = stack.http.post("/api/v1/jobs", json=body).json()
    url = f"/api/v1/jobs/{job['id']}"
    until(lambda: stack.http.get(url).json()["state"] == "running")
    counted = re.compile(r'nexus_jobs_running\{model="slow"\} [1-9]')
    until(lambda: counted.search(stack.http.get("/metrics").text))
    assert stack.http.delete(url).json()["state"] == "cancelled"
    until(lambda: _running(stack, "slow") == 0, timeout=10)
    assert stack.http.get(url).json()["state"] == "cancelled"
    assert stack.http.delete(url).status_code == 200
    done = stack.generate(model="simulated", prompt="x", cache="no")
    assert stack.http.delete(f"/api/v1/jobs/{done['id']}").status_code == 409


def test_a_prompt_that_is_too_long_is_refused_at_once(stack):
    answer = stack.http.post("/api/v1/jobs", json={"model": MODEL, "prompt": "word " * 4000})
    assert answer.status_code == 422
    assert answer.json()["code"] == "prompt_too_long"
    assert "4" in answer.json()["detail"]


def test_a_job_that_nobody_started_in_time_expires(stack):
    filler = {"model": "slow", "prompt": "w", "max_tokens": 1000, "ignore_eos": True, "cache": "no"}
    fillers = [
        stack.http.post("/api/v1/jobs", json=filler | {"priority": 0}).json()["id"]
        for _ in range(16)
    ]
    until(lambda: _running(stack, "slow") == 16)
    late = {"model": "slow", "prompt": "late", "expires_in": 0.5, "cache": "no"}
    job = stack.http.post("/api/v1/jobs", json=late).json()
    ended = stack.http.get(f"/api/v1/jobs/{job['id']}", params={"wait": 15}).json()
    assert ended["state"] == "expired"
    for filler_id in fillers:
        stack.http.delete(f"/api/v1/jobs/{filler_id}")


def _running(stack, model: str) -> int:
    reports = stack.sql(f"SELECT count(*) FROM jobs WHERE model = '{model}' AND state = 'running'")
    return reports[0][0]


def test_the_metrics_count_what_was_done(stack):
    stack.generate(model="simulated", prompt="count me", cache="no")
    metrics = stack.http.get("/metrics").text
    assert 'nexus_jobs_submitted_total{model="simulated"}' in metrics
    # counted by the worker, which is another process
    assert 'nexus_jobs_ended_total{model="simulated",state="succeeded"}' in metrics
    assert "nexus_jobs_waiting" in metrics


def test_the_openapi_document_and_its_page_are_served(stack):
    assert stack.http.get("/api/v1/openapi.json").json()["openapi"].startswith("3.")
    page = httpx.get(stack.url + "/api/v1/docs", follow_redirects=True)
    assert page.status_code == 200
    assert "swagger" in page.text.lower()


def test_a_model_is_removed_once_its_jobs_are_cancelled(stack):
    times = {"simulated": {"step_ms": 100}, "max_batch_size": 2}
    stack.http.post("/api/v1/models", json={"name": "leaving", "type": "simulated", **times})
    job = {"model": "leaving", "max_tokens": 500, "ignore_eos": True}
    for prompt in "abcd":
        stack.http.post("/api/v1/jobs", json={**job, "prompt": prompt})
    until(lambda: stack.http.get("/api/v1/jobs?model=leaving&state=running").json()["data"])
    kept = stack.run("models", "remove", "leaving")
    assert kept.returncode == 1
    assert "nexus jobs cancel --model leaving" in " ".join(kept.stderr.split())
    cancelled = stack.run("jobs", "cancel", "--model", "leaving")
    assert (cancelled.returncode, cancelled.stdout) == (0, "cancelled: 4\n")
    assert stack.run("models", "remove", "leaving").returncode == 0
    states = [each["state"] for each in stack.http.get("/api/v1/jobs?model=leaving").json()["data"]]
    assert states == ["cancelled"] * 4
