"""What becomes of results that cannot be recorded, or not be told of."""

import threading

import pytest

from nexus_jobs import execution
from nexus_jobs.errors import NexusError
from nexus_jobs.states import State
from tests.unit.memory_worker import MODEL

EIGHT = MODEL.model_copy(update={"max_batch_size": 8})


@pytest.fixture(autouse=True)
def died(monkeypatch):
    """Is set if a thread of the worker dies, which would end this process."""
    died = threading.Event()
    monkeypatch.setattr("workers.threads.os._exit", lambda _: died.set())
    yield died
    assert not died.is_set()


def refuse_bad(worker):
    """Let the store refuse all of a group that holds one bad answer."""
    finish = worker.store.finish

    def finish_unless_bad(outcomes):
        if any(outcome.result and outcome.result.text == "bad" for outcome in outcomes):
            raise NexusError("the database cannot hold it")
        return finish(outcomes)

    worker.store.finish = finish_unless_bad


def test_a_result_that_the_database_refuses_fails_alone(start):
    worker = start(model=EIGHT, before=refuse_bad)
    bad, *others = worker.ended(worker.add("bad", *["well"] * 7))
    assert (bad.state, bad.attempt, bad.error.code) == (State.DEAD, 3, "internal_error")
    assert "cannot hold it" in bad.error.message
    assert {(job.state, job.attempt) for job in others} == {(State.SUCCEEDED, 1)}


def test_a_result_that_cannot_be_counted_is_kept(start, monkeypatch):
    def count(*_):
        raise ValueError("Counters can only be incremented by non-negative amounts.")

    monkeypatch.setattr(execution, "_count", count)
    worker = start()
    for _ in range(2):
        (job,) = worker.ended(worker.add("x"))
        assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
