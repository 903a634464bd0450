"""A model that another server runs, which goes away and comes back."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.stack import until
from tests.llama_server import LlamaServer

JOBS = 20


@pytest.fixture
def server(models_dir):
    with LlamaServer(models_dir / "smollm2-135m" / "gguf" / "model.gguf", slots=4) as running:
        yield running


def test_jobs_outlive_the_server_that_runs_their_model(make_stack, server):
    far = {"name": "far", "type": "upstream", "path": server.url, "max_batch_size": 4}
    stack = make_stack([far])
    stack.env |= {"NEXUS_JOBS__MAX_ATTEMPTS": "5"}
    stack.start()
    job = {"model": "far", "max_tokens": 32, "ignore_eos": True, "cache": "no"}
    first = stack.generate(**job, prompt="Tell me of the sea.")
    assert first["result"]["usage"]["completion_tokens"] == 32
    assert first["result"]["text"].strip()

    bodies = [{**job, "prompt": f"Tell me fact {number}."} for number in range(JOBS)]
    ids = [stack.http.post("/api/v1/jobs", json=body).json()["id"] for body in bodies]
    until(server.busy_slots)
    server.kill()
    state = until(lambda: _failed(stack))
    assert "cannot be reached" in state["reason"]
    assert os.kill(stack.worker_pids()[0], 0) is None

    server.start()
    with ThreadPoolExecutor(JOBS) as pool:
        ended = list(pool.map(lambda id: _ended(stack, id), ids))
    assert {job["state"] for job in ended} == {"succeeded"}
    assert {job["result"]["usage"]["completion_tokens"] for job in ended} == {32}
    assert max(job["attempt"] for job in ended) == 2


def _failed(stack):
    model = stack.http.get("/api/v1/models/far").json()
    return model if model["state"] == "failed" else None


def _ended(stack, job_id):
    return until(
        lambda: next(
            (
                job
                for job in [stack.http.get(f"/api/v1/jobs/{job_id}?wait=30").json()]
                if job["state"] not in ("queued", "running")
            ),
            None,
        ),
        timeout=90,
    )
