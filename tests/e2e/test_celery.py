"""The platform seen with Celery's own tools."""

import subprocess
import sys

import httpx
import redis

from nexus_jobs.adapters.celery_tickets import MOST_WAITING, CeleryTickets
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.config import Settings
from tests.e2e.stack import SIMULATED, free_port, until


def test_celery_shows_the_queue_of_every_model(stack):
    shown = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "inspect", "active_queues"],
        env=stack.env, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    for model in stack.models:
        assert f"nexus.{model}" in shown


def test_a_worker_that_cannot_start_says_why_and_ends(stack):
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-Q", "nexus.typo"]
    ended = subprocess.run(
        command, env=stack.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "'nexus.typo' is of no registered model" in ended.stderr


def test_a_worker_that_celery_starts_takes_tickets(make_roles):
    roles = make_roles(SIMULATED)
    roles.env["NEXUS_WORKER__POLL_SECONDS"] = "60"  # it finds no job without having been told
    url = f"http://127.0.0.1:{roles.add_api('api')}/api/v1/generate"
    bare = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = ["celery", "-A", "workers.app", "worker", "-Q", "nexus.simulated", *bare]
    roles.add_command("w1", [sys.executable, "-m", *worker])
    roles.await_models("w1")
    body = {"model": "simulated", "cache": "no"}
    for prompt in ("one", "two", "three"):
        answer = httpx.post(url, json={**body, "prompt": prompt}, timeout=30)
        assert answer.status_code == 200


def test_flower_shows_workers_queues_and_tickets(stack):
    port = free_port()
    flower = subprocess.Popen(
        [*stack.nexus, "flower", "--port", str(port)],
        env={**stack.env, "FLOWER_UNAUTHENTICATED_API": "true"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30) as client:
            workers = until(lambda: _answer(client, "/workers?refresh=1"))
            queues = [
                queue["name"] for worker in workers.values() for queue in worker["active_queues"]
            ]
            assert "nexus.simulated" in queues

            def tickets():  # Flower asks the workers for their events a few seconds after its start
                stack.generate(model="simulated", prompt="for flower", cache="no")
                return {task["name"] for task in (_answer(client, "/tasks") or {}).values()}

            until(lambda: "nexus.generate" in tickets())
    finally:
        flower.terminate()
        flower.wait(timeout=30)


def test_a_worker_outlives_whatever_lies_on_its_queue(stack):
    before = stack.worker_pids()
    with redis.Redis(port=stack.redis_port) as client:
        client.lpush("nexus.simulated", "x", "", "{", "3", "[]", "{}", '{"properties": 1}', b"\x80")
        until(lambda: not client.llen("nexus.simulated"))
    assert stack.generate(model="simulated", prompt="after it", cache="no")["state"] == "succeeded"
    assert stack.worker_pids() == before
    assert stack.log().count("ticket.garbled") == 8


def test_a_full_worker_leaves_tickets_to_others(stack):
    prompts = ["and so on"] * 16
    body = {"model": "slow", "prompts": prompts, "max_tokens": 2000, "ignore_eos": True}
    batch = stack.http.post(
        "/api/v1/generate/batch", json=body, headers={"Prefer": "wait=0"}
    ).json()
    bulk = f"/api/v1/bulk/{batch['bulk_id']}"
    until(lambda: stack.http.get(bulk).json()["counts"]["running"] == 16)
    settings = Settings(queue={"embedded_port": stack.redis_port})
    link = RedisLink(settings.redis_url)
    tickets = CeleryTickets(link, ticket_jobs=1)
    tickets.ring({"slow": MOST_WAITING})
    until(lambda: tickets.waiting("slow") < MOST_WAITING)
    # it may hold two of each model, and one to spare, but not all
    assert tickets.waiting("slow") > MOST_WAITING / 2
    link.client.delete("nexus.slow")
    stack.http.delete(bulk)


def _answer(client: httpx.Client, path: str):
    try:
        answer = client.get(path)
    except httpx.TransportError:
        return None
    return answer.json() if answer.status_code == 200 else None
