"""Prompts that kill what runs them: found, kept from the others, listed and replayed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from tests.e2e.stack import SIMULATED, Stack, until

OPTIONS = {"model": "frail", "max_tokens": 40, "ignore_eos": True, "cache": "no"}
FAULTS = {"step_ms": 5, "deadly": "deadly", "poison": "poisonous", "memory_rows": 6}


@pytest.fixture(scope="module")
def stack(make_stack) -> Stack:
    made = make_stack([{**SIMULATED, "name": "frail", "max_batch_size": 8, "simulated": FAULTS}])
    made.env["NEXUS_WORKER__STUCK_SECONDS"] = "2"
    made.start()
    return made


def submit(stack: Stack, *prompts: str) -> list[str]:
    """Their ids, which the model begins to run together."""
    body = {**OPTIONS, "prompts": list(prompts)}
    answer = stack.http.post("/api/v1/generate/batch", json=body, headers={"Prefer": "wait=0"})
    return [job["id"] for job in answer.json()["data"]]


def ended(stack: Stack, job_id: str) -> dict:
    def document() -> dict | None:
        job = stack.http.get(f"/api/v1/jobs/{job_id}", params={"wait": 20}).json()
        return job if job["finished_at"] else None

    return until(document, timeout=90)


def test_a_prompt_that_kills_its_worker_takes_no_other_job_along(stack: Stack) -> None:
    ids = submit(stack, *["x"] * 3, "deadly", *["x"] * 2)
    jobs = [ended(stack, job_id) for job_id in ids]
    assert Counter(job["state"] for job in jobs) == {"succeeded": 5, "dead": 1}
    dead = jobs[3]
    assert (dead["state"], dead["attempt"]) == ("dead", 3)
    assert dead["error"]["code"] == "lease_expired"
    assert max(job["attempt"] for job in jobs if job is not dead) <= 3
    assert stack.sql("SELECT count(*), count(DISTINCT job_id) FROM results") == [(5, 5)]


def test_a_prompt_that_breaks_its_batch_is_listed_changed_and_replayed(stack: Stack) -> None:
    ids = submit(stack, "x", "poisonous", "x")
    jobs = [ended(stack, job_id) for job_id in ids]
    assert [job["state"] for job in jobs] == ["succeeded", "dead", "succeeded"]
    assert "simulated.py" in jobs[1]["error"]["trace"]
    listed = stack.run("jobs", "list", "--state", "dead")
    assert ids[1] in listed.stdout
    assert "engine_error" in listed.stdout
    replayed = stack.run("jobs", "retry", ids[1], "--prompt", "harmless")
    assert (replayed.returncode, replayed.stdout) == (0, "queued again: 1\n")
    job = ended(stack, ids[1])
    assert (job["state"], job["attempt"], job["error"]) == ("succeeded", 4, None)
    assert job["result"]["text"].startswith("harmless")


def test_a_batch_that_is_too_large_for_the_memory_costs_no_attempt(stack: Stack) -> None:
    jobs = [ended(stack, job_id) for job_id in submit(stack, *["x"] * 24)]
    assert {(job["state"], job["attempt"]) for job in jobs} == {("succeeded", 1)}
    assert "batch.halved" in stack.log()


def test_a_worker_that_was_stopped_as_a_whole_goes_on_where_it_was(stack: Stack) -> None:
    body = {**OPTIONS, "prompt": "long", "max_tokens": 1500}
    job = stack.http.post("/api/v1/jobs", json=body).json()
    path = f"/api/v1/jobs/{job['id']}"
    until(lambda: stack.http.get(path).json()["state"] == "running")
    (pid,) = stack.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    # longer than a batch may be stuck, and a lease on top
    until(lambda: time.monotonic() > stopped + 2 + 3 + 1)
    os.kill(pid, signal.SIGCONT)
    assert ended(stack, job["id"])["state"] == "succeeded"
    assert stack.worker_pids() == [pid]
