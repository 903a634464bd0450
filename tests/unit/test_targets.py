"""What is kept in the book about a route's targets."""

from dataclasses import replace

import pytest

from nexus_jobs.job import JobError
from nexus_jobs.ports import Ending
from nexus_jobs.route import Route
from nexus_jobs.routing import Breaker
from nexus_jobs.states import State
from nexus_jobs.targets import REMEMBERED_JOBS, REMEMBERED_SECONDS, Targets
from tests.unit.memory_services import ANSWER

ROUTE = Route(name="r", targets=[{"model": "a"}], failure_threshold=2, open_seconds=10)
WELL = Ending(
    model="a", state=State.SUCCEEDED, attempt=1, started_at=0, finished_at=1, worker="w",
    result=ANSWER,
)  # fmt: skip
DEAD = replace(WELL, state=State.DEAD, result=None, error=JobError("engine_error", ""))


@pytest.fixture
def targets():
    return Targets()


def send(targets, *job_ids, tokens=100, now=0.0):
    for job_id in job_ids:
        targets.send(ROUTE, "a", job_id, tokens, now)


def state(targets, now=0.0, waiting=0):
    return targets.state("a", now, reachable=True, waiting=waiting)


def test_a_job_is_outstanding_until_anything_is_heard_of_it(targets):
    send(targets, "1", "2", "3", "4")
    targets.hear("1", WELL, 1.0)
    targets.hear("2", None, 1.0)
    targets.withdraw("3")
    assert state(targets).outstanding == 1
    targets.hear("1", WELL, 2.0)
    targets.withdraw("unknown")
    assert state(targets).outstanding == 1


def test_a_job_that_is_sent_twice_is_outstanding_once(targets):
    send(targets, "1", tokens=100)
    send(targets, "1", tokens=50)
    assert (state(targets).outstanding, state(targets).backlog_tokens) == (1, 50)
    targets.hear("1", WELL, 1.0)
    assert (state(targets).outstanding, state(targets).backlog_tokens) == (0, 0)


def test_jobs_of_which_nothing_is_heard_are_let_go_in_time(targets):
    send(targets, "lost", now=0.0)
    send(targets, "next", now=REMEMBERED_SECONDS + 1)
    assert state(targets).outstanding == 1


def test_the_book_does_not_grow_without_end(targets):
    send(targets, *map(str, range(REMEMBERED_JOBS + 10)))
    assert state(targets).outstanding == REMEMBERED_JOBS


def test_latency_is_from_sending_to_hearing_of_what_was_sent_from_here(targets):
    send(targets, "1", now=5.0)
    targets.hear("1", WELL, 8.0)
    assert state(targets, 8.0).latency == 3.0
    targets.hear("elsewhere", WELL, 9.0)
    assert 2.5 < state(targets, 9.0).latency < 3.0


def test_neither_failures_nor_rows_of_bulks_are_fast_or_slow(targets):
    send(targets, "1", "2")
    targets.hear("1", DEAD, 8.0)
    targets.hear("2", replace(WELL, result=None), 9.0)
    assert state(targets, 9.0).latency == 0.0


def test_failures_in_a_row_count_wherever_the_jobs_came_from(targets):
    targets.hear("x", DEAD, 1.0)
    targets.hear("y", DEAD, 2.0)
    assert state(targets).health.breaker(ROUTE, 2.0) is Breaker.OPEN
    targets.hear("z", replace(WELL, result=None), 3.0)
    assert state(targets).health.breaker(ROUTE, 3.0) is Breaker.CLOSED


def test_a_request_that_was_wrong_tells_nothing_of_the_model(targets):
    targets.hear("x", DEAD, 1.0)
    targets.hear("y", replace(DEAD, state=State.FAILED), 2.0)
    assert state(targets).health.failures == 1


def test_the_place_of_a_probe_that_never_ran_is_free_again(targets):
    for job_id in "xy":
        targets.hear(job_id, DEAD, 0.0)
    for leave in (lambda: targets.withdraw("probe"), lambda: targets.hear("probe", None, 10.0)):
        send(targets, "probe", now=10.0)
        assert not state(targets).health.lets_pass(ROUTE, 10.0)
        leave()
        assert state(targets).health.lets_pass(ROUTE, 10.0)


def test_a_backlog_is_what_waits_in_tokens_of_the_jobs_sent_from_here(targets):
    assert state(targets, waiting=10).backlog_tokens == 10 * 128
    send(targets, "1", tokens=100)
    send(targets, "2", tokens=300)
    assert state(targets, waiting=10).backlog_tokens == 10 * 200
    assert state(targets, waiting=0).backlog_tokens == 400
    targets.hear("2", WELL, 1.0)
    assert state(targets, waiting=10).backlog_tokens == 10 * 100
