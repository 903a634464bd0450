"""What waiting for jobs promises, with everything in memory."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus_jobs.bootstrap import settlement_on
from nexus_jobs.errors import NotFound, StoreUnavailable
from nexus_jobs.job import Cached, JobError, Outcome
from nexus_jobs.ports import Channel, Ending
from nexus_jobs.states import Event, State
from nexus_jobs.submission import Changes
from nexus_jobs.waiting import Waiter
from tests.e2e.stack import until
from tests.unit.memory_services import ANSWER, ask, finish_all


def test_it_ends_with_the_job(services):
    (job,) = services.jobs.submit([ask()])
    threading.Timer(0.05, finish_all, [services]).start()
    started = time.monotonic()
    (ended,) = services.jobs.wait([job.id], 30)
    assert ended.state is State.SUCCEEDED
    assert time.monotonic() - started < 10


def test_a_generation_ends_with_its_job(services):
    until_queued = threading.Thread(target=until, args=[lambda: finish_all(services)])
    until_queued.start()
    job = services.jobs.generate(ask(), 30)
    until_queued.join()
    assert (job.state, job.result) == (State.SUCCEEDED, ANSWER)
    assert services.jobs.get(job.id) == job


def test_a_generation_that_a_cache_answers_ends_at_once(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
    services.jobs.submit([ask()])
    finish_all(services)
    assert services.jobs.generate(ask(), 60).cached is Cached.DATABASE


def test_a_generation_that_takes_too_long_is_given_as_it_stands(services):
    assert services.jobs.generate(ask(), 0.05).state is State.QUEUED


def test_what_the_ended_message_tells_is_what_is_stored(services):
    platform = services.platform
    settlement = settlement_on(platform)
    heard = {}
    platform.signals.listen(Channel.ENDED, heard.update)

    def settle() -> bool:
        jobs = platform.store.claim("simulated", 9, worker="w", lease_seconds=60)
        settlement.settle(
            jobs,
            [Outcome(lease=job.lease, event=Event.SUCCEED, result=ANSWER) for job in jobs],
        )
        return bool(jobs)

    worker = threading.Thread(target=until, args=[settle])
    worker.start()
    told = services.jobs.generate(ask(), 30)
    worker.join()
    assert heard[told.id].result == ANSWER
    assert services.jobs.get(told.id) == told


def test_a_late_word_of_before_a_retry_ends_no_wait(services):
    platform, heard = services.platform, {}
    platform.signals.listen(Channel.ENDED, heard.update)
    [job] = services.jobs.submit([ask()])
    claimed = platform.store.claim("simulated", 9, worker="w", lease_seconds=60)
    error = JobError("engine_error", "it broke")
    outcome = Outcome(lease=claimed[0].lease, event=Event.FAIL, error=error)
    settlement_on(platform).settle(claimed, [outcome])
    assert heard[job.id].error == error
    services.jobs.retry(job.id, Changes({}))
    late = threading.Timer(0.1, platform.signals.send, [Channel.ENDED, dict(heard)])
    late.start()
    (waiting,) = services.jobs.wait([job.id], 0.5)
    late.join()
    assert waiting.state is State.QUEUED


def test_it_ends_without_a_signal_too(services, monkeypatch):
    (job,) = services.jobs.submit([ask()])
    monkeypatch.setattr(services.platform.signals, "_heard", {channel: [] for channel in Channel})
    threading.Timer(0.05, finish_all, [services]).start()
    (ended,) = services.jobs.wait([job.id], 30)
    assert ended.state is State.SUCCEEDED


def test_an_accepted_job_is_not_refused_when_the_database_goes_away(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 0.05)
    looks = []

    def away(_ids):
        looks.append(1)
        raise StoreUnavailable("away")

    monkeypatch.setattr(services.platform.store, "get_many", away)
    job = services.jobs.generate(ask(), 0.3)
    assert looks
    assert services.jobs.get(job.id) == job


def test_a_job_that_ended_before_does_not_delay_the_others(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
    (before,) = services.jobs.submit([ask("before")])
    finish_all(services)
    (later,) = services.jobs.submit([ask("later")])
    threading.Timer(0.05, finish_all, [services]).start()
    started = time.monotonic()
    ended = services.jobs.wait([before.id, later.id], 10)
    assert [job.state for job in ended] == [State.SUCCEEDED] * 2
    assert time.monotonic() - started < 9


def test_what_is_told_between_two_looks_wakes_the_waiter(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 0.05)
    a, b = services.jobs.submit([ask("a"), ask("b")])
    ending = Ending(
        model="m",
        state=State.SUCCEEDED,
        attempt=1,
        started_at=1.0,
        finished_at=2.0,
        worker="w",
        result=ANSWER,
    )

    class Store:
        def get_many(self, _ids):
            monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
            waiter.tell(b.id, ending)
            return {}

    waiter = Waiter([a.id, b.id], Store())
    waiter.tell(a.id, ending)
    started = time.monotonic()
    jobs = waiter.follow({a.id: a, b.id: b}, started + 30)
    assert [job.state for job in jobs.values()] == [State.SUCCEEDED] * 2
    assert time.monotonic() - started < 20


def test_it_gives_the_job_as_it_stands_when_time_is_up(services):
    (job,) = services.jobs.submit([ask()])
    assert services.jobs.wait([job.id], 0.05)[0].state is State.QUEUED


def test_many_jobs_come_back_in_the_order_asked_for(services):
    jobs = services.jobs.submit([ask(f"{i}") for i in range(20)])
    ids = [job.id for job in reversed(jobs)]
    threading.Timer(0.05, finish_all, [services]).start()
    assert [job.id for job in services.jobs.wait(ids, 30)] == ids


def test_a_job_that_is_handed_back_makes_no_waiter_spin(services, monkeypatch):
    (job,) = services.jobs.submit([ask()])
    store = services.platform.store
    settlement = settlement_on(services.platform)
    reads = []
    get_many = store.get_many
    monkeypatch.setattr(store, "get_many", lambda ids: reads.append(1) or get_many(ids))

    def hand_back():
        (claimed,) = store.claim("simulated", 1, worker="w", lease_seconds=60)
        settlement.settle([claimed], [Outcome(lease=claimed.lease, event=Event.RELEASE)])

    threading.Timer(0.05, hand_back).start()
    assert services.jobs.wait([job.id], 0.5)[0].state is State.QUEUED
    assert len(reads) < 5


def test_who_waits_is_let_go_when_the_watch_closes(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
    (job,) = services.jobs.submit([ask()])
    with ThreadPoolExecutor() as pool:
        waits = [
            pool.submit(services.jobs.wait, [job.id], 60),
            pool.submit(services.jobs.wait, [job.id], 60),
            pool.submit(services.jobs.generate, ask("another"), 60),
        ]
        until(lambda: len(services.watch._waiters) == 2)
        started = time.monotonic()
        services.watch.close()
        [watched], [same], generated = [wait.result(30) for wait in waits]
    assert time.monotonic() - started < 20
    assert watched == same == job
    assert services.jobs.get(generated.id) == generated


def test_nobody_waits_at_a_watch_that_is_closed(services):
    services.watch.close()
    started = time.monotonic()
    job = services.jobs.generate(ask(), 60)
    assert job.state is State.QUEUED
    assert services.jobs.wait([job.id], 60) == [job]
    assert time.monotonic() - started < 20


def test_a_watch_that_closes_during_a_commit_lets_it_come_to_its_end(services, monkeypatch):
    monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
    store, closed = services.platform.store, threading.Event()
    add = store.add
    monkeypatch.setattr(
        store, "add", lambda *given, **named: closed.wait(30) and add(*given, **named)
    )
    with ThreadPoolExecutor() as pool:
        generation = pool.submit(services.jobs.generate, ask(), 60)
        until(lambda: services.watch._waiters)
        services.watch.close()
        closed.set()
        job = generation.result(20)
    assert services.jobs.get(job.id) == job


def test_an_unknown_job_is_not_waited_for(services):
    with pytest.raises(NotFound):
        services.jobs.wait(["nope"], 30)


def test_a_job_that_changed_its_model_while_it_waited_ends_as_one_of_the_new(services):
    (job,) = services.jobs.submit([ask()])
    ending = Ending(
        model="other", state=State.SUCCEEDED, attempt=1, started_at=1.0, finished_at=2.0,
        worker="w", result=ANSWER,
    )  # fmt: skip
    waiter = Waiter([job.id], services.platform.store)
    waiter.tell(job.id, ending)
    ended = waiter.follow({job.id: job}, time.monotonic() + 30)[job.id]
    assert (ended.request.model, ended.result) == ("other", ANSWER)


def test_an_ending_without_its_text_sends_the_waiter_to_the_row(services):
    (job,) = services.jobs.submit([ask()])
    finish_all(services)
    waiter = Waiter([job.id], services.platform.store)
    bare = Ending(
        model="simulated", state=State.SUCCEEDED, attempt=1, started_at=1.0, finished_at=2.0,
        worker="w",
    )  # fmt: skip
    waiter.tell(job.id, bare)
    ended = waiter.follow({job.id: job}, time.monotonic() + 30)[job.id]
    assert ended == services.jobs.get(job.id)
