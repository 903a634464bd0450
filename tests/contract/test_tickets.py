"""What a ticket queue promises."""

from __future__ import annotations

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from celery import Celery

from nexus_jobs.adapters.celery_tickets import MOST_WAITING, CeleryTickets
from nexus_jobs.adapters.memory_queue import MemoryTickets
from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.errors import QueueUnavailable
from tests.contract.conftest import DEAD_URL


def celery_tickets(url: str) -> CeleryTickets:
    return CeleryTickets(RedisLink(url), ticket_jobs=10)


@pytest.fixture(params=["memory", "celery"])
def tickets(request, redis_url):
    if request.param == "memory":
        return MemoryTickets()
    return celery_tickets(redis_url)


def test_a_ticket_waits_until_a_worker_takes_it(tickets):
    assert tickets.waiting("m") == 0
    tickets.ring({"m": 3, "other": 1})
    assert tickets.waiting("m") == tickets.waiting("other") == 1


def test_many_jobs_become_several_tickets_that_any_worker_can_take(redis_url, link):
    tickets = celery_tickets(redis_url)
    tickets.ring({"m": 25})
    messages = [json.loads(raw) for raw in link.client.lrange("nexus.m", 0, -1)]
    assert {message["headers"]["task"] for message in messages} == {"nexus.generate"}
    assert sorted(message["headers"]["argsrepr"] for message in messages) == [
        "('m', 10)", "('m', 10)", "('m', 5)",
    ]  # fmt: skip


def test_a_ticket_reads_as_if_celery_had_sent_it(redis_url, link):
    with Celery(broker=redis_url) as app:
        app.send_task("nexus.generate", ("m", 3), queue="theirs", ignore_result=True)
    celery_tickets(redis_url).ring({"m": 3})
    (theirs,), (ours,) = (
        [json.loads(raw) for raw in link.client.lrange(queue, 0, -1)]
        for queue in ("theirs", "nexus.m")
    )
    own = {"id", "root_id", "origin", "correlation_id", "delivery_tag", "delivery_info"}
    for part in ("headers", "properties"):
        mine, celerys = ours.pop(part), theirs.pop(part)
        assert mine.keys() <= celerys.keys()
        assert {k: mine[k] for k in mine.keys() - own} == {k: celerys[k] for k in mine.keys() - own}
    mine, celerys = (json.loads(base64.b64decode(each.pop("body"))) for each in (ours, theirs))
    assert mine == celerys
    assert ours == theirs


def test_redis_stays_small_however_many_jobs_are_announced(redis_url, link):
    tickets = celery_tickets(redis_url)
    for _ in range(3):
        tickets.ring({"m": 1000, "other": 1})
    assert tickets.waiting("m") == MOST_WAITING
    assert tickets.waiting("other") == 3


def test_tickets_that_were_taken_meanwhile_leave_room(redis_url, link):
    tickets = celery_tickets(redis_url)
    tickets.ring({"m": 10 * (MOST_WAITING - 1)})
    link.client.delete("nexus.m")
    tickets.ring({"m": 200})
    assert tickets.waiting("m") == 20


def test_a_ring_goes_through_although_its_connection_was_cut(redis_url, link):
    tickets = celery_tickets(redis_url)
    tickets.ring({"m": 1})
    link.client.client_kill_filter(_type="normal", skipme=True)
    tickets.ring({"m": 1})
    assert link.client.llen("nexus.m") == 2


def test_nobody_waits_in_line_for_a_redis_that_hangs(redis_url, link):
    tickets = celery_tickets(redis_url)
    link.client.client_pause(10_000, all=False)
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(8) as threads:
            rings = [threads.submit(tickets.ring, {"m": 1}) for _ in range(8)]
            assert all(isinstance(each.exception(30), QueueUnavailable) for each in rings)
        assert time.monotonic() - started < 6
    finally:
        link.client.client_unpause()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next(link, monkeypatch):
    monkeypatch.setattr("nexus_jobs.adapters.redis_link.QUIET_SECONDS", 0.0)
    link.call("SET", "text", "x")
    with pytest.raises(QueueUnavailable, match="WRONGTYPE"):
        link.call("LPUSH", "text", "y")
    assert link.call("ECHO", "a") == b"a"
    link.client.client_pause(10_000, all=False)
    try:
        with pytest.raises(QueueUnavailable):
            link.call("LPUSH", "late", "x")
    finally:
        link.client.client_unpause()
    assert link.call("ECHO", "b") == b"b"


def test_a_redis_that_is_away_is_told_and_not_asked_again_at_once():
    tickets = celery_tickets(DEAD_URL)
    with pytest.raises(QueueUnavailable):
        tickets.ring({"m": 1})
    with pytest.raises(QueueUnavailable, match="a moment ago"):
        tickets.ring({"m": 1})
    with pytest.raises(QueueUnavailable):
        tickets.waiting("m")
