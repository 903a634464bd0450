"""A worker on another host loses its way to Redis, to the database, or to both."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from nexus_jobs.chaos.ground import LEASE_SECONDS, Ground
from nexus_jobs.chaos.stack import until
from tests.chaos.far_host import NAME, Ways, far_worker
from tests.chaos.jobs import Jobs

OUTAGE_SECONDS = LEASE_SECONDS + 1.0
"""Every lease of the worker lapses meanwhile."""


@pytest.fixture(scope="module")
def ways(on_postgres: Ground) -> Iterator[Ways]:
    with far_worker(on_postgres) as laid:
        yield laid


@pytest.mark.parametrize("lost", [["redis"], ["database"], ["redis", "database"]], ids="-".join)
def test_a_worker_that_was_cut_off_loses_no_job_and_comes_back(
    on_postgres: Ground, ways: Ways, lost: list[str]
) -> None:
    jobs = Jobs(on_postgres)
    until_at_work(jobs)
    for server in lost:
        ways.cut(server)
    jobs.submit(60, words=20)
    time.sleep(OUTAGE_SECONDS)
    for server in lost:
        ways.mend(server)
    until_at_work(jobs)
    jobs.all_succeed(timeout=60)


def test_a_worker_notices_that_the_host_of_the_database_is_another(
    on_postgres: Ground, ways: Ways
) -> None:
    jobs = Jobs(on_postgres)
    until_at_work(jobs)
    ways.replace("database")
    until_at_work(jobs)
    jobs.all_end(timeout=60)


def until_at_work(jobs: Jobs) -> None:
    """Wait until the far worker has run a job from beginning to end; there is enough for all."""
    now = time.time()
    done = f"worker LIKE '{NAME}@%' AND state = 'succeeded' AND started_at > {now}"

    def at_work() -> bool:
        if len(jobs.rows("id", "state = 'queued'")) < 30:
            jobs.submit(60, words=20)
        return bool(jobs.rows("id", done))

    until(at_work, timeout=30)
