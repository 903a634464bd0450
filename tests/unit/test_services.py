"""What the API's services promise, with everything in memory."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus_jobs.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    QueueUnavailable,
    StoreUnavailable,
)
from nexus_jobs.job import Cached, Request, SamplingParams
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_services import ANSWER, ask, finish_all, note_durability


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


class TestSubmittingOnce:
    def test_a_repetition_gives_the_first_job(self, services):
        first, repeated = services.jobs.submit_once(ask(), "k")
        assert not repeated
        finish_all(services)
        again, repeated = services.jobs.submit_once(ask(), "k")
        assert (again, repeated) == (services.jobs.get(first.id), True)
        assert again.result == ANSWER

    def test_what_was_committed_without_an_answer_is_not_committed_again(
        self, services, monkeypatch
    ):
        store = services.platform.store
        add = store.add

        def lose_the_answer(*given, **named):
            add(*given, **named)
            raise StoreUnavailable("the connection broke")

        monkeypatch.setattr(store, "add", lose_the_answer)
        with pytest.raises(StoreUnavailable):
            services.jobs.submit_once(ask(), "k")
        monkeypatch.undo()
        job, repeated = services.jobs.submit_once(ask(), "k")
        assert (repeated, job.state) == (True, State.QUEUED)
        assert finish_all(services) == 1

    def test_a_repetition_waits_for_the_job_that_is_under_way(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.waiting.LOOK_AGAIN_SECONDS", 60)
        first, _ = services.jobs.submit_once(ask(), "k")
        threading.Timer(0.05, finish_all, [services]).start()
        started = time.monotonic()
        job, _ = services.jobs.submit_once(ask(), "k", 30)
        assert (job.id, job.state) == (first.id, State.SUCCEEDED)
        assert time.monotonic() - started < 20

    def test_a_wait_that_runs_out_gives_the_job_as_it_stands(self, services):
        job, _ = services.jobs.submit_once(ask(), "k", 0.05)
        assert job.state is State.QUEUED


class TestGenerating:
    def away(self):
        raise StoreUnavailable("away")

    def test_a_job_that_does_not_end_soon_is_on_the_disk_before_it_is_given(
        self, services, monkeypatch
    ):
        monkeypatch.setattr("nexus_jobs.service.SOON", 0.01)
        assert services.jobs.generate(ask(), 0.05).state is State.QUEUED
        monkeypatch.setattr(services.platform.store, "flush", self.away)
        with pytest.raises(StoreUnavailable):
            services.jobs.generate(ask(), 0.05)

    def test_a_job_that_its_database_has_lost_is_not_given(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.service.SOON", 0.01)
        monkeypatch.setattr(services.platform.store, "get", lambda _: None)
        with pytest.raises(StoreUnavailable, match="submit it again"):
            services.jobs.generate(ask(), 0.05)

    def test_who_does_not_wait_long_gets_a_job_that_is_on_the_disk_at_once(
        self, services, monkeypatch
    ):
        store = services.platform.store
        asked = note_durability(store, monkeypatch)
        monkeypatch.setattr(store, "flush", self.away)
        assert services.jobs.generate(ask(), 0).state is State.QUEUED
        assert asked == [True]

    def test_a_job_that_ends_soon_is_on_the_disk_with_its_end(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.service.SOON", 20)
        monkeypatch.setattr(services.platform.store, "flush", self.away)
        with ThreadPoolExecutor(1) as worker:
            worker.submit(until, lambda: finish_all(services))
            assert services.jobs.generate(ask(), 30).state is State.SUCCEEDED

    def test_jobs_that_do_not_end_soon_wait_for_the_disk_together(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.service.SOON", 0.5)
        flushes, going_on = [], threading.Event()

        def slow_disk():
            flushes.append(1)
            going_on.wait(10)

        monkeypatch.setattr(services.platform.store, "flush", slow_disk)
        with ThreadPoolExecutor(16) as clients:
            waits = [clients.submit(services.jobs.generate, ask(), 1) for _ in range(16)]
            until(flushes.__len__)
            threading.Timer(1.0, going_on.set).start()
            assert {wait.result(20).state for wait in waits} == {State.QUEUED}
        assert len(flushes) <= 4


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

    def test_a_count_from_during_the_import_does_not_complete_a_bulk(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.counting.CHEAP", -1)
        monkeypatch.setattr("nexus_jobs.counting.SHARE", 1e9)
        monkeypatch.setattr("nexus_jobs.bulk_service.CHUNK", 1)
        store, seen = services.platform.store, []
        add = store.add

        def add_and_ask(drafts, *given, **named):
            added = add(drafts, *given, **named)
            seen.append(services.bulks.status(drafts[0].bulk_id))
            return added

        monkeypatch.setattr(store, "add", add_and_ask)
        bulk = self.submit(services, "id,prompt\n1,\n2,\n")
        status = services.bulks.status(bulk.id)
        assert [old.state for old in seen] == ["importing"] * 2
        assert (status.counts[State.FAILED], status.state) == (1, "queued")

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

        def failing(*given, **named):
            return next(calls, lambda *_, **__: 1 / 0)(*given, **named)

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

    def test_a_bulk_is_cancelled_in_groups(self, services, monkeypatch):
        monkeypatch.setattr("nexus_jobs.bulk_service.CANCELLED_ROWS", 2)
        bulk = self.submit(services, "prompt\na\nb\nc\n")
        assert services.bulks.cancel(bulk.id).counts[State.CANCELLED] == 3

    def test_cancelling_again_goes_on_where_the_first_time_broke_off(self, services):
        bulk = self.submit(services, "prompt\na\nb\nc\n")
        services.platform.store.cancel_bulk(bulk.id)
        assert services.bulks.cancel(bulk.id).counts[State.CANCELLED] == 3

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
