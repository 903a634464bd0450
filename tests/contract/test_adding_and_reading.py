"""What a store promises about jobs that are added and looked at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from nexus_jobs.errors import Conflict
from nexus_jobs.job import (
    Cached,
    Ended,
    Idempotency,
    Job,
    JobError,
    Message,
    NewJob,
    Request,
    Result,
    SamplingParams,
)
from nexus_jobs.ports import JobFilter
from nexus_jobs.states import Event, State
from tests.contract.stores import (
    ERROR,
    RESULT,
    Store,
    claim,
    eventually,
    finish,
    new_bulk,
    new_id,
    new_job,
    running,
)


def test_a_job_comes_back_as_it_was_added(store: Store) -> None:
    request = Request(
        model="m",
        messages=(Message("system", "Be brief."), Message("user", "Grüße, 日本, 🦆?")),
        params=SamplingParams(
            max_tokens=9, temperature=0.7, top_k=40, seed=3, stop=("\n", "END"), ignore_eos=True
        ),
        priority=2,
        expires_in=60.0,
        use_cache=False,
        reproducible=True,
        metadata={"user": "ann", "tags": ["a", None, 1.5, {"deep": True}]},
    )
    new = NewJob(id=new_id(), request=request, slack=15.0, max_attempts=5, fingerprint="f1")
    (added,) = store.add([new])
    assert store.get(new.id) == added
    assert added.request == request
    assert (added.state, added.attempt, added.max_attempts) == (State.QUEUED, 0, 5)
    assert added.fingerprint == "f1"
    assert added.due_at == added.submitted_at + 15.0
    assert added.expires_at == added.submitted_at + 60.0


def test_times_are_seconds_since_the_epoch(store: Store) -> None:
    (added,) = store.add([new_job()])
    assert added.submitted_at == pytest.approx(time.time(), abs=5.0)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("key", [None, Idempotency(key="k", digest="d", seconds=60.0)])
def test_whoever_claims_once_it_is_told_of_jobs_finds_them(
    store: Store, durable: bool, key: Idempotency | None
) -> None:
    told, claimed = [], []
    with ThreadPoolExecutor(1) as worker:

        def tell(jobs: Sequence[Job]) -> None:
            told.extend(jobs)
            claimed.append(worker.submit(claim, store))

        assert worker.submit(claim, store).result(10) == []  # so that it is connected
        added = store.add([new_job(idempotency=key)], tell, durable=durable)
        assert told == added
        assert [job.id for each in claimed for job in each.result(10)] == [added[0].id]


def test_what_was_not_on_the_disk_at_once_is_there_and_ends_as_any_other(store: Store) -> None:
    (added,) = store.add([new_job()], durable=False)
    store.flush()
    assert store.get(added.id) == added
    finish(store, claim(store), Event.SUCCEED)
    assert store.get(added.id).state is State.SUCCEEDED


def test_jobs_come_back_in_the_order_they_were_given(store: Store) -> None:
    new = [new_job(slack=float(-i)) for i in range(50)]
    assert [job.id for job in store.add(new)] == [job.id for job in new]


def test_adding_nothing_is_allowed(store: Store) -> None:
    assert store.add([]) == []


def test_an_unknown_job_is_none(store: Store) -> None:
    assert store.get(new_id()) is None
    assert store.cancel(new_id()) is None


def test_get_many_returns_those_that_exist(store: Store) -> None:
    first, second = store.add([new_job(), new_job()])
    found = store.get_many([first.id, new_id(), second.id])
    assert found == {first.id: first, second.id: second}
    assert store.get_many([]) == {}


def test_all_of_a_group_is_added_or_none(store: Store) -> None:
    (old,) = store.add([new_job()])
    fresh = new_job()
    with pytest.raises(Conflict):
        store.add([fresh, new_job(id=old.id)])
    assert store.get(fresh.id) is None
    assert store.backlog(["m", "other"], 9) == {"m": 1}


def test_a_job_answered_by_the_cache_is_born_succeeded(store: Store) -> None:
    new = new_job(ended=Ended(result=RESULT, cached=Cached.REDIS), fingerprint="f1")
    (job,) = store.add([new])
    assert (job.state, job.result, job.cached) == (State.SUCCEEDED, RESULT, Cached.REDIS)
    assert job.finished_at == job.submitted_at
    assert store.get(job.id) == job
    assert claim(store) == []


def test_a_job_that_cannot_run_is_born_failed(store: Store) -> None:
    error = JobError("empty_prompt", "the prompt is empty")
    (job,) = store.add([new_job(ended=Ended(error=error))])
    assert (job.state, job.error, job.result) == (State.FAILED, error, None)
    assert store.get(job.id) == job
    assert claim(store) == []


def test_strange_characters_in_whatever_a_client_wrote_come_back(store: Store) -> None:
    strange = 'a\0b \\u0000 "quoted" \\ \n é 🎉'
    request = Request(
        model="m",
        messages=(Message("user", strange),),
        params=SamplingParams(stop=(strange,)),
        metadata={strange: [strange, {"deep": strange}], "none": None},
    )
    bulk = store.add_bulk(new_bulk())
    (job,) = store.add([new_job(request=request, bulk_id=bulk.id, bulk_index=0, cells=[strange])])
    assert store.get(job.id) == job
    assert (job.request, job.cells) == (request, [strange])


def test_one_unstorable_answer_does_not_undo_its_neighbours(store: Store) -> None:
    odd, plain = store.add([new_job(), new_job()])
    texts = {odd.id: "a\0b\ud800c", plain.id: "fine"}
    for job in claim(store, 2):
        finish(store, [job], Event.SUCCEED, result=_saying(texts[job.id]))
    stored = store.get(odd.id)
    assert stored is not None
    assert stored.result is not None
    readable = stored.result.text.encode(errors="replace").decode().replace("\0", "\ufffd")
    assert readable == "a\ufffdb?c"


def test_search_shows_the_newest_first_in_pages(store: Store) -> None:
    ids = [job.id for job in store.add([new_job() for _ in range(5)])]
    newest = store.search(JobFilter(), limit=2)
    assert [job.id for job in newest] == [ids[4], ids[3]]
    older = store.search(JobFilter(), limit=10, before=newest[-1].id)
    assert [job.id for job in older] == [ids[2], ids[1], ids[0]]
    assert list(store.search(JobFilter(), limit=5, before=ids[0])) == []


def test_search_can_be_narrowed(store: Store) -> None:
    done = running(store)
    finish(store, [done], Event.SUCCEED)
    waiting, other = store.add([new_job(), new_job(model="other")])

    def found(which: JobFilter) -> list[str]:
        return [job.id for job in store.search(which, limit=10)]

    assert found(JobFilter(state=State.SUCCEEDED)) == [done.id]
    assert found(JobFilter(model="other")) == [other.id]
    assert found(JobFilter(state=State.QUEUED, model="m")) == [waiting.id]
    assert found(JobFilter(model="unknown")) == []
    assert found(JobFilter(bulk_id=new_id())) == []


def test_search_shows_results(store: Store) -> None:
    finish(store, [running(store)], Event.SUCCEED)
    (job,) = store.search(JobFilter(), limit=1)
    assert job.result == RESULT


def test_backlog_counts_queued_jobs_by_model(store: Store) -> None:
    assert store.backlog(["m", "other"], 9) == {}
    store.add([new_job(), new_job(), new_job(model="other")])
    claim(store)
    assert store.backlog(["m", "other", "idle"], 9) == {"m": 1, "other": 1}
    assert store.backlog(["other"], 9) == {"other": 1}
    assert store.backlog([], 9) == {}


def test_backlog_counts_no_further_than_it_is_asked_to(store: Store) -> None:
    store.add([new_job() for _ in range(12)])
    assert store.backlog(["m"], 5) == {"m": 5}


def test_counts_are_by_model_and_state_and_leave_out_what_has_ended(store: Store) -> None:
    finish(store, [running(store)], Event.SUCCEED)
    store.add([new_job(), new_job(), new_job(model="other")])
    claim(store)
    assert store.counts() == {
        ("m", State.QUEUED): 1,
        ("m", State.RUNNING): 1,
        ("other", State.QUEUED): 1,
    }


def test_a_result_is_found_by_its_fingerprint_while_it_is_young(store: Store) -> None:
    finish(store, [running(store)], Event.SUCCEED, fingerprint="f1")
    assert store.find_results(["f1", "f2"], max_age=60.0) == {"f1": RESULT}
    eventually(lambda: not store.find_results(["f1"], max_age=0.02))
    assert store.find_results([], max_age=60.0) == {}


def test_the_newest_result_of_a_fingerprint_is_found(store: Store) -> None:
    for text in ("first", "second"):
        job = running(store)
        finish(store, [job], Event.SUCCEED, fingerprint="f1", result=_saying(text))
        ended = store.get(job.id)
        assert ended is not None
        eventually(lambda at=ended.finished_at: store.add([new_job()])[0].submitted_at > at)
        while claimed := claim(store, 100):
            finish(store, claimed, Event.FAIL)
    assert store.find_results(["f1"], max_age=60.0)["f1"].text == "second"


def test_a_copy_of_a_result_is_not_found_again(store: Store) -> None:
    copied = Ended(result=RESULT, cached=Cached.MEMORY)
    store.add([new_job(ended=copied, fingerprint="f1")])
    assert store.find_results(["f1"], max_age=60.0) == {}


def test_a_failure_leaves_nothing_to_find(store: Store) -> None:
    job = running(store, fingerprint="f1")
    finish(store, [job], Event.FAIL, fingerprint="f1")
    assert store.find_results(["f1"], max_age=60.0) == {}
    failed = store.get(job.id)
    assert failed is not None
    assert failed.error == ERROR


def _saying(text: str) -> Result:
    return replace(RESULT, text=text)
