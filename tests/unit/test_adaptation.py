"""What a model's controller is told about its batch, by a worker with everything in memory."""

import pytest

from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.adaptive import AdaptiveBatching
from nexus_jobs.batching import BatchPolicy
from nexus_jobs.engine import Progress, TokenSequence
from nexus_jobs.execution import Row
from nexus_jobs.job import Bulk, BulkState, Job, Request, SamplingParams
from nexus_jobs.states import State
from tests.unit.memory_worker import MODEL, slow_engine
from workers.adaptation import Adaptation


class Time:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Recorder(AdaptiveBatching):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(BatchPolicy(slots=8), target=2.0)
        self.told = []

    def stepped(self, rows, seconds):
        self.told.append(("stepped", rows, pytest.approx(seconds)))

    def claimed(self, queued):
        self.told.append(("claimed", queued))

    def served(self, now, *, queued, ran, tokens):
        self.told.append(("served", now, queued, ran, tokens))

    def policy(self, now, *, awaited, filling):
        self.told.append(("asked", awaited, filling))
        return super().policy(now, awaited=awaited, filling=filling)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def told():
    return Recorder()


@pytest.fixture
def adaptation(time, told):
    return Adaptation(told, time)


def job(name, *, bulk=None, tokens=2, queued=0.5):
    return Job(
        id=name,
        request=Request(model="m", prompt="a b c", params=SamplingParams(max_tokens=tokens)),
        state=State.RUNNING,
        attempt=1,
        max_attempts=3,
        submitted_at=10.0,
        due_at=20.0,
        started_at=10.0 + queued,
        lease_token="t",
        bulk_id=bulk,
    )


def row(claimed):
    return Row(claimed, TokenSequence(str(claimed.lease), [1], SamplingParams()), WordTokenizer())


def counts(adaptation, told):
    adaptation.policy()
    return told.told[-1][1:]


def test_a_step_counts_with_its_rows(adaptation, told):
    adaptation.stepped(2, 0.022)
    assert told.told == [("stepped", 2, 0.022)]


def test_a_job_is_timed_from_its_submission_to_its_last_token(adaptation, told, time):
    single = job("a", queued=0.5)
    adaptation.claimed([single])
    time.sleep(1.0)
    joined = row(single)
    for token in (4, 5):
        time.sleep(0.1)
        joined.advance(Progress(joined.id, [token]), time())
    adaptation.left(joined, succeeded=True)
    assert told.told[0] == ("claimed", 0.5)
    what, now, queued, ran, tokens = told.told[-1]
    assert (what, now, queued, tokens) == ("served", time.now, 0.5, 2)
    assert ran == pytest.approx(1.2)


def test_rows_of_bulks_fill_and_are_not_timed(adaptation, told):
    bulk_row = job("a", bulk="b")
    adaptation.claimed([bulk_row, job("c")])
    assert counts(adaptation, told) == (1, 1)
    adaptation.left(row(bulk_row), succeeded=True)
    assert counts(adaptation, told) == (1, 0)
    assert not [what for what, *_ in told.told if what == "served"]


def test_an_attempt_that_did_not_succeed_says_nothing_about_latency(adaptation, told):
    single = job("a")
    adaptation.claimed([single])
    adaptation.left(row(single), succeeded=False)
    assert counts(adaptation, told) == (0, 0)
    assert not [what for what, *_ in told.told if what == "served"]


def test_a_job_that_never_joined_is_not_counted_for_ever(adaptation, told):
    adaptation.claimed([job("a"), job("b", bulk="b")])
    adaptation.gone([job("a"), job("b", bulk="b")])
    assert counts(adaptation, told) == (0, 0)


def test_a_worker_with_a_target_runs_single_jobs_and_bulks_to_the_end(start):
    model = MODEL.model_copy(update={"target_latency_ms": 50, "max_wait_ms": 5})
    worker = start(slow_engine, model=model)
    bulk = Bulk(
        id="b", model="simulated", filename="f", columns=["prompt"], total=30,
        state=BulkState.IMPORTING, submitted_at=0.0,
    )  # fmt: skip
    worker.store.add_bulk(bulk)
    options = {"max_tokens": 5, "ignore_eos": True}
    rows = worker.add(*(f"row {i}" for i in range(30)), bulk="b", **options)
    worker.store.accept_bulk("b")
    for i in range(10):
        (job,) = worker.ended(worker.add(f"single {i}", **options))
        assert job.state is State.SUCCEEDED
    assert {job.state for job in worker.ended(rows)} == {State.SUCCEEDED}
    assert worker.device._placement.runners["simulated"]._serving._adaptation is not None
