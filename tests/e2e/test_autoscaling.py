"""`nexus up` with leave to start more workers."""

from __future__ import annotations

from tests.e2e.stack import SLOW, until

JOBS = 60
STEPS = {**SLOW, "simulated": {"step_ms": 100}, "max_batch_size": 4}
TWO_SECONDS = {"model": "slow", "prompt": "x", "max_tokens": 20, "ignore_eos": True, "cache": "no"}


def test_workers_come_when_work_piles_up_and_share_it(make_stack):
    stack = make_stack([STEPS])
    stack.env |= {"NEXUS_SCHEDULER__SLO_SECONDS": "5"}
    stack.start(workers=1, max_workers=3)
    assert len(_workers(stack)) == 1
    (memory,) = (worker["memory_mb"] for worker in _workers(stack).values())
    ids = [stack.http.post("/api/v1/jobs", json=TWO_SECONDS).json()["id"] for _ in range(JOBS)]
    until(lambda: len(_workers(stack)) == 3, timeout=30)
    ended = [stack.http.get(f"/api/v1/jobs/{id}?wait=60").json() for id in ids]
    assert {(job["state"], job["attempt"]) for job in ended} == {("succeeded", 1)}
    assert len({job["worker"] for job in ended}) == 3
    assert {worker["memory_mb"] for worker in _workers(stack).values()} == {memory}


def _workers(stack):
    return {one["id"]: one for one in stack.http.get("/api/v1/workers").json()["data"]}
