"""What the API's services promise, with everything in memory."""

import io
import threading
import time

import pytest

from nexus_jobs.bootstrap import build_memory_services
from nexus_jobs.config import ModelConfig
from nexus_jobs.errors import Conflict, InvalidRequest, NotFound, QueueUnavailable
from nexus_jobs.execution import Settlement
from nexus_jobs.job import (
    Cached,
    Event,
    FinishReason,
    Outcome,
    Request,
    Result,
    SamplingParams,
    State,
)
from nexus_jobs.ports import Channel, Ending
from nexus_jobs.waiting import Waiter
from tests.e2e.stack import until

MODEL = ModelConfig(name="simulated", type="simulated", max_sequence_length=256)
ANSWER = Result(text="hi", finish_reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=1)


@pytest.fixture
def services():
    built = build_memory_services([MODEL, ModelConfig(name="smollm2-135m")])
    yield built
    built.close()


def ask(prompt="hello", **fields) -> Request:
    return Request(model="simulated", prompt=prompt, **fields)


def finish_all(services) -> int:
    """Answer every queued job as a worker would."""
    store = services.platform.store
    jobs = store.claim("simulated", 1000, worker="w", lease_seconds=60)
    outcomes = [
        Outcome(lease=job.lease, event=Event.SUCCEED, result=ANSWER, fingerprint=job.fingerprint)
        for job in jobs
    ]
    ended = {lease.job_id: None for lease in store.finish(outcomes)}
    services.platform.signals.send(Channel.ENDED, ended)
    return len(jobs)


class TestSubmitting:
    def test_accepted_jobs_are_stored_and_announced(self, services):
        jobs = services.jobs.submit([ask("a"), ask("b")])
        assert [services.jobs.get(job.id).state for job in jobs] == [State.QUEUED] * 2
        until(lambda: services.platform.tickets.waiting("simulated") == 1)

    def test_jobs_are_accepted_while_redis_is_away(self, services, monkeypatch):
        def away(counts):
            raise QueueUnavailable("away")

        monkeypatch.setattr(services.platform.tickets, "ring", away)
        (job,) = services.jobs.submit([ask()])
        assert services.jobs.get(job.id).state is State.QUEUED

    @pytest.mark.parametrize(
        ("request_", "code", "hint"),
        [
            (Request(model="simulate", prompt="x"), "unknown_model", "did you mean 'simulated'?"),
            (ask("  \n"), "empty_prompt", "must not be empty"),
            (ask("a\x00b"), "invalid_character", "NUL"),
            (ask("word " * 400), "prompt_too_long", "takes 256 with the answer"),
            (
                Request(model="smollm2-135m", prompt="x", reproducible=True),
                "not_reproducible",
                "`reproducible: true`",
            ),
        ],
    )
    def test_what_can_never_run_is_refused_with_a_reason(self, services, request_, code, hint):
        with pytest.raises(InvalidRequest) as refused:
            services.jobs.submit([request_])
        assert refused.value.code == code
        assert hint in str(refused.value)

    def test_more_tokens_than_the_model_has_are_refused(self, services):
        with pytest.raises(InvalidRequest, match="takes 256 tokens"):
            services.jobs.submit([ask(params=SamplingParams(max_tokens=1_000_000))])


class TestCaching:
    def test_the_second_of_two_equal_requests_ends_at_once(self, services):
        services.jobs.submit([ask()])
        finish_all(services)
        (job,) = services.jobs.submit([ask()])
        assert (job.state, job.cached, job.result) == (State.SUCCEEDED, Cached.DATABASE, ANSWER)
        (again,) = services.jobs.submit([ask()])
        assert again.cached is Cached.MEMORY

    def test_a_request_may_bypass_the_cache(self, services):
        services.jobs.submit([ask()])
        finish_all(services)
        (job,) = services.jobs.submit([ask(use_cache=False)])
        assert (job.state, job.cached) == (State.QUEUED, Cached.NO)


class TestWaiting:
    def test_it_ends_with_the_job(self, services):
        (job,) = services.jobs.submit([ask()])
        threading.Timer(0.05, finish_all, [services]).start()
        started = time.monotonic()
        (ended,) = services.jobs.wait([job.id], 30)
        assert ended.state is State.SUCCEEDED
        assert time.monotonic() - started < 10

    def test_a_generation_ends_with_its_job(self, services):
        until_queued = threading.Thread(target=until, args=[lambda: finish_all(services)])
        until_queued.start()
        job = services.jobs.generate(ask(), 30)
        until_queued.join()
        assert (job.state, job.result) == (State.SUCCEEDED, ANSWER)
        assert services.jobs.get(job.id) == job

    def test_a_generation_that_a_cache_answers_ends_at_once(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
        services.jobs.submit([ask()])
        finish_all(services)
        assert services.jobs.generate(ask(), 60).cached is Cached.DATABASE

    def test_a_generation_that_takes_too_long_is_given_as_it_stands(self, services):
        assert services.jobs.generate(ask(), 0.05).state is State.QUEUED

    def test_what_the_ended_message_tells_is_what_is_stored(self, services):
        platform = services.platform
        settlement = Settlement(
            store=platform.store, cache=platform.cache, signals=platform.signals
        )
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

    def test_it_ends_without_a_signal_too(self, services, monkeypatch):
        (job,) = services.jobs.submit([ask()])
        monkeypatch.setattr(
            services.platform.signals, "_heard", {channel: [] for channel in Channel}
        )
        threading.Timer(0.05, finish_all, [services]).start()
        (ended,) = services.jobs.wait([job.id], 30)
        assert ended.state is State.SUCCEEDED

    def test_a_job_that_ended_before_does_not_delay_the_others(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
        (before,) = services.jobs.submit([ask("before")])
        finish_all(services)
        (later,) = services.jobs.submit([ask("later")])
        threading.Timer(0.05, finish_all, [services]).start()
        started = time.monotonic()
        ended = services.jobs.wait([before.id, later.id], 10)
        assert [job.state for job in ended] == [State.SUCCEEDED] * 2
        assert time.monotonic() - started < 9

    def test_what_is_told_between_two_looks_wakes_the_waiter(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 0.05)
        a, b = services.jobs.submit([ask("a"), ask("b")])
        ending = Ending(
            state=State.SUCCEEDED, attempt=1, started_at=1.0, finished_at=2.0, worker="w"
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

    def test_it_gives_the_job_as_it_stands_when_time_is_up(self, services):
        (job,) = services.jobs.submit([ask()])
        assert services.jobs.wait([job.id], 0.05)[0].state is State.QUEUED

    def test_many_jobs_come_back_in_the_order_asked_for(self, services):
        jobs = services.jobs.submit([ask(f"{i}") for i in range(20)])
        ids = [job.id for job in reversed(jobs)]
        threading.Timer(0.05, finish_all, [services]).start()
        assert [job.id for job in services.jobs.wait(ids, 30)] == ids

    def test_a_job_that_is_handed_back_makes_no_waiter_spin(self, services, monkeypatch):
        (job,) = services.jobs.submit([ask()])
        store = services.platform.store
        settlement = Settlement(
            store=store, cache=services.platform.cache, signals=services.platform.signals
        )
        reads = []
        get_many = store.get_many
        monkeypatch.setattr(store, "get_many", lambda ids: reads.append(1) or get_many(ids))

        def hand_back():
            (claimed,) = store.claim("simulated", 1, worker="w", lease_seconds=60)
            settlement.settle([claimed], [Outcome(lease=claimed.lease, event=Event.RELEASE)])

        threading.Timer(0.05, hand_back).start()
        assert services.jobs.wait([job.id], 0.5)[0].state is State.QUEUED
        assert len(reads) < 5

    def test_an_unknown_job_is_not_waited_for(self, services):
        with pytest.raises(NotFound):
            services.jobs.wait(["nope"], 30)


class TestCancelling:
    def test_a_queued_job_is_cancelled_and_stays_so(self, services):
        (job,) = services.jobs.submit([ask()])
        assert services.jobs.cancel(job.id).state is State.CANCELLED
        assert services.jobs.cancel(job.id).state is State.CANCELLED
        assert finish_all(services) == 0

    def test_an_ended_job_cannot_be_cancelled(self, services):
        (job,) = services.jobs.submit([ask()])
        finish_all(services)
        with pytest.raises(Conflict):
            services.jobs.cancel(job.id)


class TestBulks:
    def submit(self, services, text: str, **defaults: str):
        return services.bulks.submit_file(
            io.BytesIO(text.encode()), filename="in.csv", model="simulated",
            prompt_column=None, defaults=defaults,
        )  # fmt: skip

    def test_rows_become_jobs_in_order_with_their_cells(self, services):
        bulk = self.submit(services, "id,prompt\n1,a\n2,b\n", max_tokens="5")
        rows = list(services.bulks.rows(bulk.id))
        assert [row.cells for row in rows] == [["1", "a"], ["2", "b"]]
        assert {row.request.params.max_tokens for row in rows} == {5}
        assert {row.request.priority for row in rows} == {8}

    def test_a_column_named_like_an_option_overrides_it_row_by_row(self, services):
        bulk = self.submit(services, "prompt,max_tokens\na,7\nb,\n", max_tokens="5")
        rows = list(services.bulks.rows(bulk.id))
        assert [row.request.params.max_tokens for row in rows] == [7, 5]

    def test_the_longest_answers_of_a_file_start_first(self, services):
        self.submit(services, "prompt,max_tokens\na,7\nb,100\nc,30\n")
        store = services.platform.store
        claimed = store.claim("simulated", 3, worker="w", lease_seconds=60)
        assert [job.request.prompt for job in claimed] == ["b", "c", "a"]

    def test_a_bulk_goes_from_queued_to_completed(self, services):
        bulk = self.submit(services, "prompt\na\nb\n\n")
        assert services.bulks.status(bulk.id).state == "queued"
        finish_all(services)
        status = services.bulks.status(bulk.id)
        assert (status.state, status.counts[State.SUCCEEDED]) == ("completed", 2)
        assert (status.rows_per_second > 0, status.eta_seconds) == (True, 0.0)
        assert b"".join(services.bulks.export_csv(bulk.id)).count(b"succeeded") == 2

    def test_a_bulk_of_wrong_rows_is_completed_at_once(self, services):
        bulk = self.submit(services, "id,prompt\n1,\n2,\n")
        status = services.bulks.status(bulk.id)
        assert (status.state, status.counts[State.FAILED]) == ("completed", 2)

    @pytest.mark.parametrize("defaults", [{"max_tokens": "many"}, {"temperature": "-1"}])
    def test_wrong_defaults_are_refused_before_anything_is_stored(self, services, defaults):
        with pytest.raises(InvalidRequest):
            self.submit(services, "prompt\na\n", **defaults)
        assert finish_all(services) == 0

    def test_an_import_that_breaks_off_leaves_nothing_to_run(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.bulk_service.CHUNK", 2)
        add = services.platform.store.add
        calls = iter([add])

        def failing(jobs):
            return next(calls, lambda _: 1 / 0)(jobs)

        monkeypatch.setattr(services.platform.store, "add", failing)
        with pytest.raises(ZeroDivisionError):
            self.submit(services, "prompt\na\nb\nc\nd\n")
        assert finish_all(services) == 0

    def test_a_completed_bulk_cannot_be_cancelled(self, services):
        bulk = self.submit(services, "prompt\na\n")
        finish_all(services)
        with pytest.raises(Conflict):
            services.bulks.cancel(bulk.id)
        assert services.bulks.status(bulk.id).state == "completed"

    def test_a_bulk_can_be_cancelled_twice(self, services):
        bulk = self.submit(services, "prompt\na\n")
        for _ in range(2):
            assert services.bulks.cancel(bulk.id).state == "cancelled"

    def test_an_import_is_not_finished_before_every_row_is_in(self, services, monkeypatch):
        seen = []
        accept = services.platform.store.accept_bulk

        def look_first(bulk_id):
            seen.append(services.bulks.status(bulk_id))
            return accept(bulk_id)

        monkeypatch.setattr(services.platform.store, "accept_bulk", look_first)
        self.submit(services, "prompt\na\n")
        assert (seen[0].state, seen[0].finished_at) == ("importing", None)

    def test_unknown_bulks_are_not_found(self, services):
        for call in (services.bulks.status, services.bulks.cancel, services.bulks.export_csv):
            with pytest.raises(NotFound):
                call("nope")
