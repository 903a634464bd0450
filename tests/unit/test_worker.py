"""What a worker promises, with a simulated engine and everything else in memory."""

from nexus_jobs.adapters.engines.simulated import SimulatedEngine
from nexus_jobs.adapters.engines.words import WordTokenizer
from nexus_jobs.errors import EngineError, ModelUnavailable, StoreUnavailable
from nexus_jobs.fleet import ModelState
from nexus_jobs.job import FinishReason
from nexus_jobs.models import SimulatedTimes
from nexus_jobs.ports import Channel
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_worker import MODEL, Worker, engine, slow_engine


def test_jobs_are_run_and_answered_each_with_its_own_words(start):
    worker = start()
    ids = worker.add(*(f"job number {i}" for i in range(50)))
    worker.ticket(50)
    jobs = worker.ended(ids)
    assert {job.state for job in jobs} == {State.SUCCEEDED}
    assert all(job.result.text.startswith(f"job number {i}") for i, job in enumerate(jobs))


def test_a_job_without_a_ticket_is_found_by_looking(start):
    worker = start()
    (job,) = worker.ended(worker.add("no ticket"))
    assert job.state is State.SUCCEEDED


def test_a_ticket_is_let_go_when_its_jobs_are_claimed(start):
    worker = start(slow_engine)
    until(worker.device.ready)
    worker.add(*["x"] * 12, max_tokens=20, ignore_eos=True)
    gone = worker.ticket(12)
    until(lambda: worker.store.counts().get(("simulated", State.RUNNING)) == 4)
    assert not gone.is_set()
    assert gone.wait(20)


def test_a_ticket_for_nothing_is_let_go_at_once(start):
    assert start().ticket(1000).wait(20)


def test_rows_join_while_others_run_and_short_ones_leave_first(start):
    worker = start(slow_engine)
    (long,) = worker.add("long", max_tokens=200, ignore_eos=True)
    until(lambda: worker.state(long) is State.RUNNING)
    (short,) = worker.add("short", max_tokens=2)
    worker.ticket(1)
    worker.ended([short])
    assert worker.state(long) is State.RUNNING


class Busy(SimulatedEngine):
    """Has a minute to spare while it has rows, and notes how many there are at each step."""

    def __init__(self, model, steps):
        super().__init__(SimulatedTimes(), model.max_batch_size, 256)
        self._steps = steps

    @property
    def spare_seconds(self):
        return 60.0 if self._rows else 0.0

    def step(self):
        self._steps.append(len(self._rows))
        return super().step()


def test_rows_that_come_while_the_engine_is_busy_anyway_join_its_next_step(start):
    steps = []
    worker = start(lambda model: Busy(model, steps), MODEL.model_copy(update={"max_batch_size": 2}))
    until(worker.device.ready)
    steps.clear()
    first = worker.add("a", max_tokens=3, ignore_eos=True)
    until(lambda: steps)
    second = worker.add("b", max_tokens=2, ignore_eos=True)
    worker.ended([*first, *second])
    assert steps == [1, 2, 2]


def test_text_ends_before_a_stop_string(start):
    worker = start()
    (job,) = worker.ended(worker.add("one two three four", max_tokens=50, stop=("three",)))
    assert (job.result.text.rstrip(), job.result.finish_reason) == ("one two", FinishReason.STOP)


def test_a_stop_string_counts_only_after_min_tokens(start):
    worker = start()
    options = {"max_tokens": 50, "stop": ("one",), "min_tokens": 3}
    (job,) = worker.ended(worker.add("one two three four one five", **options))
    assert job.result.text.rstrip() == "one two three four"


def test_a_prompt_that_does_not_fit_fails_without_a_retry(start):
    worker = start(model=MODEL.model_copy(update={"max_sequence_length": 129}))
    (job,) = worker.ended(worker.add("word " * 400))
    assert (job.state, job.error.code, job.attempt) == (State.FAILED, "prompt_too_long", 1)


def test_a_cancelled_row_leaves_the_batch_and_frees_its_slot(start):
    worker = start(slow_engine)
    ids = worker.add(*["x"] * 4, max_tokens=200, ignore_eos=True)
    until(lambda: all(worker.state(i) is State.RUNNING for i in ids))
    worker.store.cancel(ids[0])
    worker.platform.signals.send(Channel.CANCELLED, {ids[0]: None})
    (fifth,) = worker.add("fifth", max_tokens=1)
    worker.ended([fifth])
    assert worker.state(ids[1]) is State.RUNNING
    assert worker.state(ids[0]) is State.CANCELLED


def test_a_lapsed_and_reclaimed_job_costs_no_slot(start, monkeypatch):
    worker = start(slow_engine, lease_seconds=0.2)
    options = {"max_tokens": 200, "ignore_eos": True}
    ids = worker.add(*["x"] * 3, **options)
    until(lambda: all(worker.state(i) is State.RUNNING for i in ids))
    with monkeypatch.context() as paused:
        paused.setattr(worker.store, "heartbeat", away)
        until(worker.store.requeue_lapsed, timeout=5)
        worker.ticket(3)
        until(lambda: any(worker.store.get(i).attempt == 2 for i in ids))
    assert {job.state for job in worker.ended(ids)} == {State.SUCCEEDED}
    four = worker.add(*["x"] * 4, **options)
    until(lambda: all(worker.state(i) is State.RUNNING for i in four))


def away(*_, **__):
    raise StoreUnavailable("away")


class Undecodable(WordTokenizer):
    def decode(self, token_ids):
        text = super().decode(token_ids)
        if "poison" in text:
            raise RuntimeError("cannot decode")
        return text


def test_an_answer_that_cannot_be_decoded_is_its_own_jobs_affair(start):
    def undecodable(model):
        made = engine(model)
        made.tokenizer = Undecodable()
        return made

    worker = start(undecodable)
    poison, fine = worker.ended(worker.add("poison", "fine"))
    assert (poison.state, poison.error.code) == (State.DEAD, "internal_error")
    assert (fine.state, fine.attempt) == (State.SUCCEEDED, 1)


class NeverRuns:
    """An engine that loads and cannot run."""

    pid, slots, max_sequence_length = None, 4, 256

    def __init__(self, closed):
        self.tokenizer, self.closed = WordTokenizer(), closed

    def admit(self, sequences):
        raise EngineError("illegal instruction")

    def close(self):
        self.closed.append(self)


def test_an_engine_that_fails_its_warm_up_is_closed_and_the_model_not_ready(start):
    closed = []
    worker = start(lambda model: NeverRuns(closed))
    until(lambda: worker.device._report().models["simulated"].state is ModelState.FAILED)
    assert len(closed) == 1


def test_a_model_that_cannot_be_loaded_is_reported_with_the_reason(start):
    def missing(model):
        raise ModelUnavailable("run nexus models pull")

    worker = start(missing)

    def failed():
        reports = worker.store.workers(max_age=60)
        return reports and reports[0].models["simulated"].state is ModelState.FAILED

    until(lambda: worker.store.report(worker.device._report()) or failed())
    assert "nexus models pull" in worker.store.workers(max_age=60)[0].models["simulated"].reason


def test_a_stopping_worker_finishes_what_runs_and_takes_nothing_new():
    worker = Worker(slow_engine)
    worker.device.start()
    running = worker.add(*["x"] * 4, max_tokens=40, ignore_eos=True)
    until(lambda: worker.device._report().models["simulated"].running == 4)
    waiting = worker.add("later")
    worker.device.drain()
    worker.device.join()
    assert {worker.state(i) for i in running} == {State.SUCCEEDED}
    assert worker.state(waiting[0]) is State.QUEUED
    assert worker.store.workers(max_age=60) == []


def test_a_stopping_worker_runs_what_it_has_claimed():
    one_by_one = MODEL.model_copy(update={"max_batch_tokens": 1})
    worker = Worker(lambda model: engine(model, step_ms=100), model=one_by_one)
    worker.device.start()
    claimed = worker.add(*["x"] * 4, max_tokens=4, ignore_eos=True)
    until(lambda: 0 < worker.device._report().models["simulated"].running < 4)
    assert {worker.state(i) for i in claimed} == {State.RUNNING}
    worker.device.drain()
    worker.device.join()
    assert {worker.state(i) for i in claimed} == {State.SUCCEEDED}


def test_what_is_handed_back_is_announced_to_other_workers():
    worker = Worker(slow_engine, grace_seconds=0.05)
    worker.device.start()
    jobs = worker.add("x", "y", max_tokens=250, ignore_eos=True)
    until(lambda: all(worker.state(job) is State.RUNNING for job in jobs))
    assert worker.platform.tickets.waiting("simulated") == 0
    worker.device.drain()
    worker.device.join()
    assert worker.platform.tickets.waiting("simulated") > 0


def test_what_outlasts_the_grace_period_is_handed_back_unharmed():
    worker = Worker(slow_engine, grace_seconds=0.05)
    worker.device.start()
    (job,) = worker.add("x", max_tokens=250, ignore_eos=True)
    until(lambda: worker.state(job) is State.RUNNING)
    worker.device.drain()
    worker.device.join()
    handed_back = worker.store.get(job)
    assert (handed_back.state, handed_back.attempt) == (State.QUEUED, 0)
