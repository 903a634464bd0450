"""What a store promises about routes and the jobs that came by them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_jobs.errors import Conflict
from nexus_jobs.job import Request
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import JobFilter
from nexus_jobs.route import Route
from nexus_jobs.states import Event, State
from tests.contract.stores import Store, claim, finish, new_id, new_job, running

ROUTE = Route(
    name="chat",
    algorithm="consistent_hash",
    targets=[{"model": "m", "weight": 2.5}, {"model": "n"}],
    fallback=["o"],
    otherwise="refuse",
    shadow={"model": "p", "percent": 12.5},
)


def test_routes_come_back_as_they_were_put(store: Store) -> None:
    assert store.routes() == []
    other = Route(name="a", targets=[{"model": "m"}])
    store.put_route(ROUTE)
    store.put_route(other)
    assert store.routes() == [other, ROUTE]
    assert store.routes()[1].model_fields_set == ROUTE.model_fields_set
    changed = ROUTE.model_copy(update={"fallback": []})
    store.put_route(changed)
    assert store.routes() == [other, changed]


def test_a_removed_route_is_gone(store: Store) -> None:
    store.put_route(ROUTE)
    assert store.remove_route("chat")
    assert not store.remove_route("chat")
    assert store.routes() == []


def test_a_route_cannot_take_the_name_of_a_model(store: Store) -> None:
    store.sync_models([ModelConfig(name="chat")])
    with pytest.raises(Conflict, match="'chat' is a model"):
        store.put_route(ROUTE)
    assert store.routes() == []


def test_a_job_keeps_the_name_it_was_sent_to(store: Store) -> None:
    (added,) = store.add([new_job(route="chat")])
    assert (added.route, added.request.model) == ("chat", "m")
    assert store.get(added.id) == added
    (claimed,) = claim(store)
    assert claimed.route == "chat"
    (other,) = store.add([new_job()])
    found = store.search(JobFilter(route="chat"), limit=9)
    assert [job.id for job in found] == [added.id]
    assert other.route is None


def test_a_shadow_is_listed_only_when_asked_for(store: Store) -> None:
    original, shadow = new_job(), new_job()
    store.add([original, replace(shadow, shadow_of=original.id)])
    assert [job.id for job in store.search(JobFilter(), limit=9)] == [original.id]
    (found,) = store.search(JobFilter(shadows=True), limit=9)
    assert (found.id, found.shadow_of) == (shadow.id, original.id)
    assert store.get(shadow.id) == found


def test_queued_jobs_of_a_route_change_to_another_model(store: Store) -> None:
    started = running(store, route="chat")
    mine = [new_job(id=new_id(), route="chat", fingerprint="f") for _ in range(3)]
    direct, foreign = new_job(), new_job(route="other")
    store.add([*mine, direct, foreign])
    assert store.reroute("chat", "m", "n", at_most=2) == 2
    assert store.reroute("chat", "m", "n", at_most=2) == 1
    assert store.reroute("chat", "m", "n", at_most=2) == 0
    assert {job.id for job in claim(store, 9)} == {direct.id, foreign.id}
    moved = store.claim("n", 9, worker="w", lease_seconds=60)
    assert {job.id for job in moved} == {job.id for job in mine}
    assert {(job.request.model, job.route, job.fingerprint) for job in moved} == {
        ("n", "chat", None)
    }
    finish(store, [started], Event.SUCCEED)


def test_jobs_that_must_be_reproducible_move_only_to_where_they_are(store: Store) -> None:
    request = Request(model="m", prompt="x", reproducible=True)
    (job,) = store.add([new_job(request=request, route="chat")])
    assert store.reroute("chat", "m", "n", at_most=9) == 0
    assert store.reroute("chat", "m", "n", at_most=9, reproducible=True) == 1
    assert store.counts() == {("n", State.QUEUED): 1}
    assert store.get(job.id).request == replace(request, model="n")


def test_a_replayed_job_keeps_the_route_of_its_draft(store: Store) -> None:
    job = running(store, max_attempts=1)
    finish(store, [job], Event.BURY)
    again = store.replay(new_job(id=job.id, model="n", route="chat"))
    assert again is not None
    assert store.get(job.id) == again
    assert (again.route, again.request.model) == ("chat", "n")
