"""What happens to requests that are sent to a route, with everything in memory."""

from collections import Counter
from dataclasses import replace

import pytest

from nexus_jobs.bootstrap import build_memory_services, settlement_on
from nexus_jobs.errors import InvalidRequest, NoTarget
from nexus_jobs.explaining import Reason
from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
from nexus_jobs.job import JobError, Outcome, SamplingParams
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import Channel, JobFilter
from nexus_jobs.route import Route
from nexus_jobs.routing import Breaker
from nexus_jobs.states import Event, State
from nexus_jobs.submission import Changes
from tests.e2e.stack import until
from tests.unit.memory_services import ANSWER, ask

SHORT = ModelConfig(name="short", type="simulated", max_sequence_length=256)
LONG = ModelConfig(name="long", type="simulated", max_sequence_length=4096)
SPARE = ModelConfig(name="spare", type="openvino")
BOTH = [{"model": "short"}, {"model": "long"}]


@pytest.fixture
def services():
    built = build_memory_services([SHORT, LONG, SPARE])
    serve(built, "short", "long", "spare")
    yield built
    built.close()


def serve(services, *models, state=ModelState.READY):
    served = {model: ServedModel(state) for model in models}
    services.fleet.report(
        WorkerReport(id="w", host="h", pid=1, device="cpu", models=served, fixed=True)
    )


def put(services, **fields):
    fields = {"targets": BOTH, "algorithm": "round_robin"} | fields
    services.platform.store.put_route(Route(name="chat", **fields))


def submit(services, *prompts, **fields):
    fields = {"use_cache": False} | fields
    return services.jobs.submit([replace(ask(p, **fields), model="chat") for p in prompts])


def run(services, model, event=Event.SUCCEED):
    """Run what is queued for a model as a worker would."""
    jobs = services.platform.store.claim(model, 1000, worker="w", lease_seconds=60)
    error = None if event is Event.SUCCEED else JobError("engine_error", "it broke")
    result = ANSWER if event is Event.SUCCEED else None
    outcomes = [
        Outcome(
            lease=j.lease, event=event, result=result, error=error, fingerprint=j.fingerprint
        )
        for j in jobs
    ]  # fmt: skip
    settlement_on(services.platform).settle(jobs, outcomes)
    return jobs


def standing(services, model):
    routes = services.routes
    return routes.standings(routes.get("chat"))[model]


def test_a_job_has_the_model_that_was_chosen_and_the_name_it_was_sent_to(services):
    put(services)
    jobs = submit(services, "a", "b", "c", "d")
    assert {job.route for job in jobs} == {"chat"}
    assert Counter(job.request.model for job in jobs) == {"short": 2, "long": 2}
    until(lambda: all(services.platform.tickets.waiting(name) for name in ("short", "long")))


def test_an_unknown_name_is_answered_with_all_names(services):
    put(services)
    with pytest.raises(InvalidRequest) as refused:
        services.jobs.submit([replace(ask(), model="chatt")])
    assert "did you mean 'chat'? (models: long, short, spare; routes: chat)" in str(refused.value)


def test_a_model_that_no_worker_has_gets_no_request(services):
    put(services)
    serve(services, "long", state=ModelState.LOADING)
    assert {job.request.model for job in submit(services, *"abcd")} == {"long"}


def test_without_a_target_the_fallback_models_are_taken_in_their_order(services):
    put(services, targets=[{"model": "short"}], fallback=["long", "spare"])
    serve(services, "long", "spare")
    (job,) = submit(services, "a")
    assert job.request.model == "long"


def test_without_any_model_a_job_waits_for_the_first_target(services):
    put(services, fallback=["spare"])
    serve(services)
    assert {job.request.model for job in submit(services, *"abc")} == {"short"}


def test_without_any_model_a_route_that_refuses_does_so(services):
    put(services, otherwise="refuse")
    serve(services)
    with pytest.raises(NoTarget, match="'chat'"):
        submit(services, "a")
    assert services.jobs.search(JobFilter(), limit=9) == []


def test_a_target_that_cannot_run_the_request_is_passed_over(services):
    put(services)
    jobs = submit(services, *"abcd", params=SamplingParams(max_tokens=1000))
    assert {job.request.model for job in jobs} == {"long"}
    assert standing(services, "short").state.outstanding == 0


def test_a_request_that_no_target_can_run_is_refused_with_a_reason(services):
    put(services)
    with pytest.raises(InvalidRequest, match=r"takes (256|4096) tokens"):
        submit(services, "a", params=SamplingParams(max_tokens=5000))


def test_when_one_of_several_requests_is_wrong_nothing_counts_as_sent(services):
    put(services)
    with pytest.raises(InvalidRequest, match="must not be empty"):
        submit(services, "a", "b", "  ")
    assert [standing(services, m).state.outstanding for m in ("short", "long")] == [0, 0]


def test_what_the_cache_answers_does_not_count_as_sent(services):
    put(services, targets=[{"model": "short"}])
    submit(services, "a", use_cache=True)
    run(services, "short")
    (again,) = submit(services, "a", use_cache=True)
    assert again.state is State.SUCCEEDED
    assert standing(services, "short").state.outstanding == 0


def test_what_the_database_refuses_does_not_count_as_sent(services, monkeypatch):
    put(services)
    monkeypatch.setattr(services.platform.store, "add", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        submit(services, "a")
    assert [standing(services, m).state.outstanding for m in ("short", "long")] == [0, 0]


def test_jobs_that_die_open_a_breaker_and_a_success_closes_it(services):
    put(services, failure_threshold=2, open_seconds=1000)
    submit(services, *"abcd")
    run(services, "short", Event.BURY)
    assert standing(services, "short").breaker is Breaker.OPEN
    assert {job.request.model for job in submit(services, *"abcd")} == {"long"}
    services.jobs.submit([replace(ask(), model="short")])
    run(services, "short")
    assert standing(services, "short").breaker is Breaker.CLOSED


def test_a_job_that_waits_behind_open_breakers_is_told_so(services):
    put(services, failure_threshold=1, open_seconds=1000)
    submit(services, *"ab")
    run(services, "short", Event.BURY)
    run(services, "long", Event.BURY)
    (job,) = submit(services, "c")
    assert job.request.model == "short"
    assert services.standings.of(job).reason is Reason.BREAKER_OPEN
    services.jobs.submit([replace(ask(), model="short")])
    run(services, "short")
    (job,) = submit(services, "d")
    assert services.standings.of(job).reason is not Reason.BREAKER_OPEN


def test_rows_of_bulks_are_routed_and_tell_how_their_models_are(services):
    put(services, failure_threshold=2, open_seconds=1000)
    bulk, jobs = services.bulks.submit_prompts(
        [replace(ask(p, use_cache=False), model="chat") for p in "abcdef"]
    )
    assert bulk.model == "chat"
    assert Counter(job.request.model for job in jobs) == {"short": 3, "long": 3}
    run(services, "short", Event.BURY)
    run(services, "long")
    assert standing(services, "short").breaker is Breaker.OPEN
    assert standing(services, "long").state.outstanding == 0
    before = services.platform.tickets.waiting("short")
    services.bulks.retry(bulk.id)
    until(lambda: services.platform.tickets.waiting("short") > before)


def test_a_repeated_request_makes_no_second_job_whatever_would_be_chosen(services):
    put(services)
    request = replace(ask(), model="chat")
    first, _ = services.jobs.submit_once(request, "k")
    again, repeated = services.jobs.submit_once(request, "k")
    assert (again.id, repeated) == (first.id, True)
    assert sum(standing(services, m).state.outstanding for m in ("short", "long")) == 1


def test_a_retry_goes_by_the_route_again(services):
    put(services, failure_threshold=1, open_seconds=1000)
    jobs = submit(services, "a", "b")
    (failed,) = (job for job in jobs if job.request.model == "short")
    run(services, "short", Event.BURY)
    again = services.jobs.retry(failed.id, Changes({}))
    assert (again.id, again.route, again.request.model) == (failed.id, "chat", "long")


def test_a_retry_of_a_route_that_is_gone_stays_on_its_model(services):
    put(services, targets=[{"model": "short"}])
    (failed,) = submit(services, "a")
    run(services, "short", Event.BURY)
    services.routes.remove("chat")
    again = services.jobs.retry(failed.id, Changes({}))
    assert (again.route, again.request.model) == (None, "short")


class TestShadows:
    def shadows(self, services):
        return services.jobs.search(JobFilter(shadows=True), limit=99)

    def test_a_copy_runs_last_and_once_and_nobody_gets_its_answer(self, services):
        put(services, shadow={"model": "spare", "percent": 100})
        (job,) = submit(services, "a", priority=0)
        (copy,) = until(lambda: self.shadows(services))
        assert (copy.shadow_of, copy.request.model, copy.route) == (job.id, "spare", None)
        assert (copy.request.priority, copy.max_attempts, copy.fingerprint) == (9, 1, None)
        assert copy.request.prompt == "a"
        assert [one.id for one in services.jobs.search(JobFilter(), limit=9)] == [job.id]
        heard = []
        services.platform.signals.listen(Channel.ENDED, heard.append)
        run(services, "spare")
        assert heard == [{copy.id: None}]

    def test_the_share_of_copies_is_kept(self, services, monkeypatch):
        lots = iter([i / 100 for i in range(100)])
        monkeypatch.setattr(services.jobs._intake, "_chance", lambda: next(lots))
        put(services, shadow={"model": "spare", "percent": 25})
        submit(services, *map(str, range(100)))
        until(lambda: len(self.shadows(services)) == 25)
        services.committer.close()
        assert len(self.shadows(services)) == 25

    def test_neither_repetitions_nor_cached_answers_nor_bulks_are_copied(self, services):
        request = replace(ask(), model="chat")
        put(services)
        services.jobs.submit_once(request, "k")
        for model in ("short", "long"):
            run(services, model)
        put(services, targets=BOTH, shadow={"model": "spare", "percent": 100})
        services.routes.all()
        services.jobs.submit_once(request, "k")
        services.bulks.submit_prompts([request])
        services.committer.close()
        assert self.shadows(services) == []

    def test_a_copy_that_cannot_be_stored_hurts_nobody(self, services, monkeypatch):
        put(services, shadow={"model": "spare", "percent": 100})
        add = services.platform.store.add

        def refuse_copies(drafts, *given, **named):
            assert not any(draft.shadow_of for draft in drafts)
            return add(drafts, *given, **named)

        monkeypatch.setattr(services.platform.store, "add", refuse_copies)
        (job,) = submit(services, "a")
        assert services.jobs.get(job.id).state is State.QUEUED
