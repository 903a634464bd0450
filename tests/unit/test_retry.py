"""What the retry policy decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_jobs.errors import EngineError, InvalidRequest, OutOfMemory, RanTooLong
from nexus_jobs.job import Job, Request
from nexus_jobs.retry import RetryPolicy, described
from nexus_jobs.states import Event, State

POLICY = RetryPolicy(first=1.0, longest=60.0)


def job(attempt=1, max_attempts=3, *, suspect=False):
    return Job(
        id="j", request=Request(model="m", prompt="x"), state=State.RUNNING, attempt=attempt,
        max_attempts=max_attempts, submitted_at=0.0, due_at=0.0, lease_token="t", suspect=suspect,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "event", "suspect"),
    [
        (InvalidRequest.of("too_long", "too long"), Event.FAIL, False),
        (RanTooLong("3600 s"), Event.FAIL, False),
        (EngineError("lost"), Event.REQUEUE, True),
        (OutOfMemory("full"), Event.REQUEUE, True),
        (RuntimeError("a bug"), Event.REQUEUE, False),
    ],
)
def test_only_what_may_go_better_is_tried_again(error, event, suspect):
    outcome = POLICY.outcome(job(), error, 0.5)
    assert (outcome.event, outcome.suspect) == (event, suspect)
    assert (outcome.delay > 0) == (event is Event.REQUEUE)


def test_the_last_attempt_is_followed_by_none():
    outcome = POLICY.outcome(job(attempt=3), EngineError("lost"), 0.5)
    assert (outcome.event, outcome.delay, outcome.error.code) == (Event.BURY, 0.0, "engine_error")


def test_after_a_retry_the_rest_is_as_short_as_at_first():
    at_first = POLICY.outcome(job(), EngineError("lost"), 0.5)
    retried = POLICY.outcome(job(attempt=7, max_attempts=9), EngineError("lost"), 0.5)
    assert retried.delay == at_first.delay


def test_a_suspect_stays_one_whatever_comes_next():
    assert POLICY.outcome(job(suspect=True), RuntimeError("a bug"), 0.5).suspect


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_the_rest_doubles_up_to_a_bound_and_half_of_it_is_chance(attempt, chance):
    rest = POLICY.rest(attempt, chance)
    whole = min(60.0, 2.0 ** min(attempt - 1, 10))
    assert whole / 2 <= rest <= whole


def test_an_error_names_the_errors_and_places_that_led_to_it():
    def fails():
        try:
            raise ValueError("in a library")
        except ValueError as cause:
            raise EngineError("in a step") from cause

    with pytest.raises(EngineError) as caught:
        fails()
    caught.value.add_note("told by the other process")
    told = described(caught.value)
    assert (told.code, told.message) == ("engine_error", "in a step")
    first, note, second = told.trace.splitlines()
    assert first.startswith("EngineError: in a step ← test_retry.py:")
    assert "in fails" in first
    assert note == "told by the other process"
    assert second.startswith("ValueError ← test_retry.py:")


def test_people_see_only_the_kind_of_an_error_that_nobody_foresaw():
    told = described(RuntimeError("a secret prompt"))
    assert (told.code, told.message) == ("internal_error", "RuntimeError")


def test_a_request_that_is_wrong_needs_no_trace():
    assert described(InvalidRequest.of("too_long", "too long")).trace is None
