"""Workers whose Celery consumer stops to take tickets, and others that only look like that."""

from __future__ import annotations

import time

import httpx
import pytest
import redis
from celery import Celery

from nexus_jobs.adapters.ticket_message import queue_of
from tests.e2e.roles import Roles
from tests.e2e.stack import SIMULATED, SLOW, free_port, until
from workers.consumer_watch import STALLED_SECONDS


class Platform:
    """An API and a worker, seen from Redis."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self.metrics = free_port()
        roles.env["NEXUS_METRICS__PROMETHEUS_PORT"] = str(self.metrics)
        self.url = f"http://127.0.0.1:{roles.add_api('api')}"
        roles.add_worker("w1")
        self.redis = redis.Redis(port=roles.redis_port)
        self.control = Celery(broker=f"redis://127.0.0.1:{roles.redis_port}/0").control

    def submit(self, model: str, **options: object) -> None:
        job = {"model": model, "prompt": "x", "cache": "no", "ignore_eos": True, **options}
        assert httpx.post(f"{self.url}/api/v1/jobs", json=job).status_code == 202

    def waiting(self, model: str) -> int:
        return self.redis.llen(queue_of(model))

    def consumes(self, model: str) -> bool:
        queues = self.control.inspect(timeout=2).active_queues() or {}
        return any(queue["name"] == queue_of(model) for one in queues.values() for queue in one)

    def stalls(self) -> float:
        """What the worker's metric and its log say, which is the same."""
        metrics = httpx.get(f"http://127.0.0.1:{self.metrics}/metrics").text
        (line,) = (x for x in metrics.splitlines() if x.startswith("nexus_consumer_stalls_total "))
        counted = float(line.split()[1])
        assert self.roles.log_of("w1").count("consumer.stalled") == counted
        return counted


@pytest.fixture
def platform_of(make_roles):
    made: list[Platform] = []

    def make(*models) -> Platform:
        made.append(Platform(make_roles(*models)))
        return made[-1]

    yield make
    for platform in made:
        platform.redis.close()
        platform.control.app.close()


@pytest.mark.slow
def test_a_consumer_that_stopped_is_made_to_take_tickets_again(platform_of):
    platform = platform_of(SIMULATED, SLOW)
    until(lambda: platform.consumes("simulated"))
    platform.control.cancel_consumer(queue_of("simulated"))
    until(lambda: not platform.consumes("simulated"))
    platform.submit("simulated")
    until(lambda: platform.waiting("simulated") == 1)
    until(platform.stalls, timeout=STALLED_SECONDS + 5)
    for _ in range(3):
        until(lambda: not platform.waiting("simulated"), timeout=5)
        platform.submit("simulated")
    until(lambda: not platform.waiting("simulated"), timeout=5)
    assert platform.stalls() == 1
    assert platform.roles.terminate("w1") < 5


@pytest.mark.slow
def test_a_full_worker_leaves_tickets_for_others_and_is_not_stalled(platform_of):
    platform = platform_of({**SLOW, "max_batch_size": 2})
    for _ in range(12):
        platform.submit("slow", max_tokens=1500)
    until(lambda: platform.waiting("slow"))
    end = time.monotonic() + STALLED_SECONDS + 3
    while time.monotonic() < end:
        assert platform.waiting("slow")
        time.sleep(0.2)
    assert platform.stalls() == 0


def test_a_consumer_whose_connections_are_cut_takes_tickets_again_by_itself(platform_of):
    platform = platform_of(SIMULATED)
    for _ in range(3):
        platform.redis.client_kill_filter(_type="normal", skipme=True)
        platform.submit("simulated")
        until(lambda: not platform.waiting("simulated"), timeout=STALLED_SECONDS)
    assert platform.stalls() == 0
