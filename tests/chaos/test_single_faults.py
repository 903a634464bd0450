"""One fault at a time, and how soon the platform is itself again."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from nexus_jobs.chaos.database_faults import Full
from nexus_jobs.chaos.disk import Quota
from nexus_jobs.chaos.ground import LEASE_SECONDS
from nexus_jobs.chaos.history import History, Reply
from nexus_jobs.chaos.offer import Offer
from nexus_jobs.chaos.redis_faults import nonsense, pickled_ticket, ticket
from nexus_jobs.chaos.stack import until
from nexus_jobs.chaos.talks import QUICK
from tests.chaos.jobs import Jobs, connected

SCHEDULER_SECONDS = 1.0
"""Between two rounds of repairs, by default."""
LOAD_SECONDS = 5.0


def test_four_processes_that_write_to_sqlite_do_not_get_into_each_others_way(on_sqlite):
    history = History()
    offer = Offer(on_sqlite.stack.url, history, rate=150, seed=1)
    offer.start()
    time.sleep(LOAD_SECONDS)
    offer.stop()
    assert len(history.tries) > 20 * LOAD_SECONDS
    assert {one.reply for one in history.tries} == {Reply.ACCEPTED}
    assert offer.odd == {}
    assert "locked" not in on_sqlite.stack.log()


def test_a_thousand_queued_jobs_survive_an_emptied_redis(on_sqlite):
    jobs = Jobs(on_sqlite)
    workers = on_sqlite.stack.family("worker")
    for worker in workers:  # so that all are queued when it happens
        worker.send_signal(signal.SIGSTOP)
    jobs.submit(1000, words=10)
    on_sqlite.redis.client.flushall()
    emptied = time.time()
    for worker in workers:
        worker.resume()
    jobs.all_succeed(timeout=60)
    [(first,)] = jobs.rows("min(finished_at)", f"started_at > {emptied}")
    assert first - emptied < 10


def test_the_rows_of_a_killed_worker_run_again_within_a_lease_time(on_sqlite):
    jobs = Jobs(on_sqlite)
    jobs.submit(8, words=40)  # two seconds
    until(lambda: len(jobs.rows("id", "state = 'running'")) == 8)
    with connected(on_sqlite) as connection:
        victim, pid = connection.exec_driver_sql(
            "SELECT id, pid FROM workers WHERE id IN"
            " (SELECT worker FROM jobs WHERE state = 'running')"
        ).first()
    held = f"worker = '{victim}' AND state = 'running' AND attempt = 1"
    ids = {row.id for row in jobs.rows("id", held)}
    psutil.Process(pid).kill()
    killed = time.time()
    until(lambda: not jobs.rows("id", held), timeout=LEASE_SECONDS + SCHEDULER_SECONDS + 1)
    jobs.all_succeed(timeout=60)
    again = {row.id: row.started_at for row in jobs.rows("id, started_at", "attempt > 1")}
    assert ids <= set(again)
    # they run one after the other, since one of them may have killed the worker
    assert min(again.values()) - killed < LEASE_SECONDS + 2 * SCHEDULER_SECONDS


def test_no_ticket_is_opened_that_is_not_plain(on_sqlite):
    jobs = Jobs(on_sqlite)
    opened = on_sqlite.folder / "opened"
    queue = f"nexus.{QUICK}"
    doubles = [ticket(QUICK, 5)] * 50
    on_sqlite.redis.client.lpush(queue, pickled_ticket(QUICK, opened), *nonsense(QUICK), *doubles)
    jobs.submit(50, words=3, model=QUICK)
    jobs.all_succeed(timeout=30)
    until(lambda: on_sqlite.redis.client.llen(queue) == 0)
    assert not opened.exists()


@pytest.mark.parametrize("disk", ["its own", "limited"])
def test_a_full_disk_is_a_503_until_there_is_room(on_sqlite, disk):
    jobs = Jobs(on_sqlite)
    jobs.submit(40, words=40)
    fault = Full(on_sqlite.disk if disk == "its own" else Quota(on_sqlite.stack))
    http = on_sqlite.stack.http
    body = {"model": QUICK, "prompt": "0 is refused", "cache": "no"}
    fault.inject(None)
    try:
        refused = until(lambda: _unless_accepted(http.post("/api/v1/jobs", json=body)))
    finally:
        fault.heal()
    assert refused.status_code == 503
    assert refused.json()["code"] == "database_unavailable"
    assert int(refused.headers["Retry-After"]) > 0
    jobs.submit(40, words=3, model=QUICK)
    jobs.all_succeed(timeout=30)


def _unless_accepted(answer):
    """None for the few bytes that still found room."""
    return None if answer.status_code == 202 else answer
