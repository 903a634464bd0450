"""What committing in groups promises, with everything in memory."""

import threading
from concurrent.futures import Future

import pytest

from nexus_jobs import telemetry
from nexus_jobs.errors import Conflict, InvalidRequest, StoreUnavailable
from nexus_jobs.job import Idempotency, NewJob, Request
from nexus_jobs.states import State
from tests.e2e.stack import until
from tests.unit.memory_services import ask, finish_all, note_durability


@pytest.fixture
def store(services, monkeypatch):
    """The store; its first `add` lasts until `release` is set, and `groups` notes every call."""
    store = services.platform.store
    add, store.groups, store.release = store.add, [], threading.Event()

    def slow_at_first(drafts, *given, **named):
        store.groups.append([draft.id for draft in drafts])
        if len(store.groups) == 1:
            store.release.wait(10)
        return add(drafts, *given, **named)

    monkeypatch.setattr(store, "add", slow_at_first)
    return store


def draft(job_id: str, **fields) -> NewJob:
    request = Request(model="simulated", prompt=job_id)
    return NewJob(id=job_id, request=request, slack=0.0, **fields)


def submit(services, *ids: str) -> Future:
    return services.committer.submit([draft(job_id) for job_id in ids])


def submit_keyed(services, job_id: str, digest: str) -> Future:
    key = Idempotency(key="k", digest=digest, seconds=60.0)
    return services.committer.submit([draft(job_id, idempotency=key)])


def begin(services, store) -> Future:
    """A commit that is under way."""
    first = submit(services, "first")
    until(lambda: store.groups)
    return first


def test_what_arrives_during_a_commit_shares_the_next_one(services, store):
    first = begin(services, store)
    others = [submit(services, "a", "b"), submit(services, "c")]
    store.release.set()
    assert [job.id for job in first.result(10)] == ["first"]
    assert [[job.id for job in other.result(10)] for other in others] == [["a", "b"], ["c"]]
    assert store.groups == [["first"], ["a", "b", "c"]]


def test_a_crowd_is_committed_in_groups_of_a_bounded_size(services, store, monkeypatch):
    monkeypatch.setattr("nexus_jobs.committing.MOST_DRAFTS", 5)
    begin(services, store)
    others = [submit(services, f"{entry}a", f"{entry}b") for entry in range(4)]
    large = submit(services, *map(str, range(7)))
    store.release.set()
    for other in (*others, large):
        other.result(10)
    assert [len(group) for group in store.groups] == [1, 4, 4, 7]


def test_one_ring_announces_a_whole_group(services, store):
    begin(services, store)
    others = [submit(services, str(number)) for number in range(20)]
    store.release.set()
    for other in others:
        other.result(10)
    services.close()
    assert services.platform.tickets.waiting("simulated") <= 2


def test_a_bad_entry_fails_alone(services, store):
    begin(services, store)
    bad, good = submit(services, "new", "first"), submit(services, "good")
    store.release.set()
    with pytest.raises(Conflict, match="exists already"):
        bad.result(10)
    assert good.result(10)[0].state is State.QUEUED
    assert store.get("new") is None


def test_one_bad_entry_of_a_crowd_costs_few_transactions(services, store):
    begin(services, store)
    crowd = [submit(services, f"{number}") for number in range(63)]
    bad = submit(services, "first")
    store.release.set()
    assert all(entry.result(10) for entry in crowd)
    assert isinstance(bad.exception(10), Conflict)
    assert len(store.groups) < 20


def test_equal_submissions_of_one_group_share_a_job(services, store):
    begin(services, store)
    equal = [submit_keyed(services, f"{number}", "same") for number in range(50)]
    other = submit_keyed(services, "other", "another")
    store.release.set()
    assert {entry.result(10)[0].id for entry in equal} == {"0"}
    with pytest.raises(InvalidRequest, match="belongs to another request"):
        other.result(10)
    assert store.backlog(["simulated"], 99) == {"simulated": 2}


def test_only_new_jobs_are_counted_and_announced(services, monkeypatch):
    rung = []
    monkeypatch.setattr(services.platform.tickets, "ring", rung.append)
    counter = telemetry.jobs_submitted.labels("simulated")
    before = counter._value.get()
    for number in range(3):
        submit_keyed(services, f"{number}", "same").result(10)
    services.close()
    assert counter._value.get() == before + 1
    assert sum(counts["simulated"] for counts in rung) == 1


def test_tickets_do_not_wait_for_the_disk(services, monkeypatch):
    store, on_disk = services.platform.store, threading.Event()
    add = store.add

    def on_a_slow_disk(drafts, claimable, *, durable):
        added = add(drafts, claimable)
        on_disk.wait(10)
        return added

    monkeypatch.setattr(store, "add", on_a_slow_disk)
    commit = submit(services, "a")
    until(lambda: services.platform.tickets.waiting("simulated"))
    assert not commit.done()
    on_disk.set()
    assert [job.id for job in commit.result(10)] == ["a"]


@pytest.mark.parametrize(
    ("entries", "durable"),
    [([False, False], False), ([False, True], True), ([True], True)],
)
def test_a_group_waits_for_the_disk_if_one_of_it_must(
    services, store, monkeypatch, entries, durable
):
    begin(services, store)
    asked = note_durability(store, monkeypatch)
    commits = [
        services.committer.submit([draft(str(number))], durable=each)
        for number, each in enumerate(entries)
    ]
    store.release.set()
    for commit in commits:
        commit.result(10)
    assert asked == [durable]


def test_an_answer_from_the_cache_is_on_the_disk_before_it_is_given(services, monkeypatch):
    store = services.platform.store
    services.jobs.submit([ask()])
    finish_all(services)
    asked = note_durability(store, monkeypatch)
    assert services.jobs.generate(ask(), 60).cached
    assert asked == [True]


def test_nobody_of_a_group_is_accepted_when_the_store_is_away(services, store, monkeypatch):
    def away(*_, **__):
        raise StoreUnavailable("away")

    begin(services, store)
    others = [submit(services, "a"), submit(services, "b")]
    monkeypatch.setattr(store, "add", away)
    store.release.set()
    for other in others:
        with pytest.raises(StoreUnavailable):
            other.result(10)


def test_a_request_that_waits_is_told_at_once_that_it_was_not_accepted(services, monkeypatch):
    def away(*_, **__):
        raise StoreUnavailable("away")

    monkeypatch.setattr(services.platform.store, "add", away)
    with pytest.raises(StoreUnavailable):
        services.jobs.generate(Request(model="simulated", prompt="x"), 60)


def test_closing_finishes_what_was_submitted(services):
    submitted = [submit(services, str(number)) for number in range(50)]
    services.close()
    assert all(future.done() for future in submitted)
    assert services.platform.store.backlog(["simulated"], 99) == {"simulated": 50}
