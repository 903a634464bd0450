"""What becomes of jobs when a worker is asked to stop."""

from __future__ import annotations

import fcntl
import os
import signal
import time

import pytest

from tests.e2e.roles import Roles
from tests.e2e.stack import SLOW, until
from workers.tasks import LAST_SECONDS

GRACE_SECONDS = 2.0
SHORT, LONG = 50, 300
"""Tokens, fifty a second: the one fits into the grace period, the other does not."""


class Busy:
    """Workers that run short and long jobs."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        roles.env["NEXUS_WORKER__GRACE_SECONDS"] = str(GRACE_SECONDS)
        # so long that nobody finds a job without having been told
        roles.env["NEXUS_WORKER__POLL_SECONDS"] = "60"
        port = roles.add_api("api")
        roles.http.base_url = f"http://127.0.0.1:{port}"
        roles.add_worker("w1")
        self.jobs = {self._submit(tokens): tokens for tokens in [LONG] * 4 + [SHORT] * 4}
        until(lambda: set(self.states().values()) == {("running", 1, "w1")})

    def _submit(self, tokens: int) -> str:
        job = {"model": "slow", "prompt": "x", "max_tokens": tokens, "ignore_eos": True}
        answer = self.roles.http.post("/api/v1/jobs", json={**job, "cache": "no"})
        assert answer.status_code == 202
        return answer.json()["id"]

    def states(self) -> dict[str, tuple[str, int, str | None]]:
        """State, attempts and worker of each job."""
        rows = self.roles.sql("SELECT id, state, attempt, worker FROM jobs")
        return {i: (state, attempt, by and by.split("@")[0]) for i, state, attempt, by in rows}

    def of(self, tokens: int) -> set[tuple[str, int, str | None]]:
        states = self.states()
        return {states[job_id] for job_id in self.jobs if self.jobs[job_id] == tokens}


@pytest.fixture
def busy(make_roles) -> Busy:
    return Busy(make_roles(SLOW))


def test_what_fits_is_finished_and_the_rest_starts_elsewhere_at_once(busy):
    busy.roles.add_worker("w2")
    assert busy.roles.terminate("w1") < GRACE_SECONDS + LAST_SECONDS
    until(lambda: busy.of(LONG) == {("running", 1, "w2")}, timeout=30)
    assert busy.of(SHORT) == {("succeeded", 1, "w1")}
    until(lambda: busy.of(LONG) == {("succeeded", 1, "w2")})
    assert busy.roles.sql("SELECT count(*) FROM results") == [(len(busy.jobs),)]
    [(left,)] = busy.roles.sql("SELECT id FROM workers")
    assert left.startswith("w2@")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["gone", "silent"])
def test_it_does_so_in_time_without_redis(busy, number):
    busy.roles.send("valkey", number)
    started = time.monotonic()
    busy.roles.send("w1", signal.SIGTERM)
    assert busy.roles.ended("w1") in (0, os.EX_TEMPFAIL)
    assert time.monotonic() - started < GRACE_SECONDS + LAST_SECONDS + 1
    assert busy.of(SHORT) == {("succeeded", 1, "w1")}
    assert busy.of(LONG) == {("queued", 0, None)}


def test_a_database_that_hangs_delays_the_end_no_longer_and_loses_nothing(busy):
    writers = os.open(busy.roles.data_dir / "nexus.db-writer", os.O_RDWR)
    fcntl.flock(writers, fcntl.LOCK_EX)
    started = time.monotonic()
    busy.roles.send("w1", signal.SIGTERM)
    assert busy.roles.ended("w1") == os.EX_TEMPFAIL
    assert time.monotonic() - started < GRACE_SECONDS + LAST_SECONDS + 1
    os.close(writers)
    busy.roles.add("scheduler", "scheduler")
    busy.roles.add_worker("w2")
    until(lambda: {state for state, _, _ in busy.states().values()} == {"succeeded"})
    assert busy.roles.sql("SELECT count(*) FROM results") == [(len(busy.jobs),)]
