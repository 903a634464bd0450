"""What a store promises about registered models and workers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from nexus_jobs.fleet import (
    Action,
    Decision,
    Measured,
    ModelState,
    Origin,
    Recommendation,
    ServedModel,
    Wanted,
    WorkerReport,
)
from nexus_jobs.models import ModelConfig, SimulatedTimes
from tests.contract.stores import Store, eventually

WORKER = WorkerReport(
    id="w1",
    host="node-1",
    pid=42,
    device="cpu",
    models={
        "a": ServedModel(ModelState.READY, engine="onnx int8", running=3, slots=16),
        "b": ServedModel(ModelState.FAILED, reason="no weights"),
    },
)


def test_the_registry_holds_just_the_models_of_the_last_sync_in_their_order(store: Store) -> None:
    first = ModelConfig(name="zeta", type="simulated", simulated=SimulatedTimes(step_ms=1.5))
    second = ModelConfig(name="alpha", max_batch_size=4)
    assert store.models() == []
    store.sync_models([first, second])
    assert store.models() == [first, second]
    changed = second.model_copy(update={"max_batch_size": 8})
    store.sync_models([changed, ModelConfig(name="new")])
    assert store.models() == [changed, ModelConfig(name="new")]
    store.sync_models([])
    assert store.models() == []


def test_a_report_comes_back_with_the_time_it_was_made(store: Store) -> None:
    store.report(WORKER)
    (seen,) = store.workers(max_age=60.0)
    assert replace(seen, seen_at=0.0) == WORKER
    assert seen.seen_at == pytest.approx(time.time(), abs=5.0)


def test_a_new_report_replaces_the_one_before(store: Store) -> None:
    store.report(WORKER)
    drained = replace(WORKER, models={"a": ServedModel(ModelState.DRAINING)})
    store.report(drained)
    store.report(replace(WORKER, id="w0"))
    first, second = store.workers(max_age=60.0)
    assert (first.id, second.id) == ("w0", "w1")
    assert second.models == drained.models


def test_a_silent_worker_is_not_shown(store: Store) -> None:
    store.report(WORKER)
    eventually(lambda: store.workers(max_age=0.02) == [])
    assert len(store.workers(max_age=60.0)) == 1


def test_a_retired_worker_is_gone(store: Store) -> None:
    store.report(WORKER)
    store.retire(WORKER.id, WORKER.pid)
    store.retire("never-seen", WORKER.pid)
    assert store.workers(max_age=60.0) == []


def test_a_worker_that_retires_leaves_its_successor_of_the_same_name_alone(store: Store) -> None:
    successor = replace(WORKER, pid=WORKER.pid + 1)
    store.report(WORKER)
    store.report(successor)
    store.retire(WORKER.id, WORKER.pid)
    (left,) = store.workers(max_age=60.0)
    assert left.pid == successor.pid


A, B = ModelConfig(name="a", type="simulated"), ModelConfig(name="b", type="simulated")


def test_a_model_of_the_api_stays_when_the_file_changes(store: Store) -> None:
    store.register(B)
    store.sync_models([A])
    assert store.models() == [A, B]
    store.sync_models([])
    assert store.models() == [B]


def test_a_change_makes_a_version_and_the_same_again_does_not(store: Store) -> None:
    store.sync_models([A])
    store.sync_models([A])
    changed = A.model_copy(update={"max_batch_size": 3})
    assert store.register(changed, Origin.FILE).version == 2
    assert store.register(A).version == 3
    assert [(number, config) for number, _, config in store.versions("a")] == [
        (1, A), (2, changed), (3, A),
    ]  # fmt: skip
    assert store.remove_model("a")
    assert not store.remove_model("a")
    assert store.registered() == []
    assert store.register(A).version == 4


def test_a_model_that_several_register_at_once_has_one_first_version(store: Store) -> None:
    new = [ModelConfig(name=f"m{i}", type="simulated") for i in range(5)]
    start = Barrier(4)

    def sync() -> None:
        store.models()  # so that all have a connection
        start.wait()
        store.sync_models(new)

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(sync) for _ in range(4)]:
            each.result()
    assert store.models() == new
    assert [len(store.versions(model.name)) for model in new] == [1] * 5


def test_what_is_wanted_and_measured_is_kept_until_there_is_a_new_version(store: Store) -> None:
    measured = Measured(load_seconds=2.5, memory_mb=300.0)
    store.sync_models([A])
    (fresh,) = store.registered()
    assert (fresh.wanted, fresh.measured, fresh.origin) == (Wanted.AUTO, None, Origin.FILE)
    assert store.want("a", Wanted.UNLOADED) == replace(fresh, wanted=Wanted.UNLOADED)
    store.note_measured("a", measured)
    store.sync_models([A])
    assert store.registered() == [replace(fresh, wanted=Wanted.UNLOADED, measured=measured)]
    changed = store.register(A.model_copy(update={"max_batch_size": 3}))
    assert (changed.wanted, changed.measured) == (Wanted.UNLOADED, None)
    assert store.want("none", Wanted.LOADED) is None
    store.note_measured("none", measured)


def test_one_leads_and_another_can_when_its_time_is_over_or_it_stops(store: Store) -> None:
    assert store.lead("one", seconds=60)
    assert store.lead("one", seconds=60)
    assert not store.lead("two", seconds=60)
    store.stop_leading("two")
    assert not store.lead("two", seconds=60)
    store.stop_leading("one")
    assert store.lead("two", seconds=0.05)
    eventually(lambda: store.lead("one", seconds=60))
    assert not store.lead("two", seconds=60)


def decision(action: Action, model: str, worker: str = "w1") -> Decision:
    return Decision(action=action, model=model, worker=worker, reason=f"{action} {model}")


def test_only_the_leader_decides(store: Store) -> None:
    load = decision(Action.LOAD, "a")
    assert not store.decide("one", [load])
    store.lead("one", seconds=60)
    assert not store.decide("two", [load])
    assert store.assignments() == store.decisions(10) == []
    assert store.decide("one", [load])
    assert [(one.worker, one.model) for one in store.assignments()] == [("w1", "a")]


def test_decisions_change_the_assignments_and_are_kept_with_their_reasons(store: Store) -> None:
    store.sync_models([A, B])
    store.lead("one", seconds=60)
    made = [decision(Action.LOAD, "a"), decision(Action.LOAD, "b"), decision(Action.LOAD, "a", "v")]
    assert store.decide("one", made)
    assert [(one.worker, one.model) for one in store.assignments()] == [
        ("v", "a"), ("w1", "a"), ("w1", "b"),
    ]  # fmt: skip
    assert [known.config for known in store.assigned("w1")] == [A, B]
    assert store.decide("one", [decision(Action.UNLOAD, "a"), decision(Action.UNLOAD, "z")])
    assert [known.name for known in store.assigned("w1")] == ["b"]
    latest = store.decisions(2)
    assert [(one.action, one.model) for one in latest] == [
        (Action.UNLOAD, "z"), (Action.UNLOAD, "a"),
    ]  # fmt: skip
    assert latest[0].at == pytest.approx(time.time(), abs=5)
    assert all(one.since == pytest.approx(time.time(), abs=5) for one in store.assignments())


def test_assignments_go_with_their_model_and_with_their_worker(store: Store) -> None:
    store.sync_models([A, B])
    store.lead("one", seconds=60)
    store.decide(
        "one", [decision(Action.LOAD, name, w) for name in ("a", "b") for w in ("v", "w1")]
    )
    store.forget_worker("v")
    store.sync_models([B])
    assert [(one.worker, one.model) for one in store.assignments()] == [("w1", "b")]
    store.remove_model("b")
    assert store.assignments() == []


def test_recommendations_are_replaced_as_a_whole(store: Store) -> None:
    two = Recommendation(model="b", replicas=2, reason="much to do")
    store.recommend([Recommendation(model="a", replicas=1, reason="idle"), two])
    store.recommend([two])
    assert store.recommendations() == [two]
    store.recommend([])
    assert store.recommendations() == []


def test_two_schedulers_that_recommend_at_once_leave_one_of_both_as_a_whole(store: Store) -> None:
    names = ["*", *"abcd"]
    plans = [[Recommendation(model=m, replicas=n, reason="") for m in names] for n in (1, 2)]
    start = Barrier(2)

    def recommend(plan: list[Recommendation]) -> None:
        start.wait()
        for _ in range(50):
            store.recommend(plan)

    with ThreadPoolExecutor(2) as threads:
        for each in [threads.submit(recommend, plan) for plan in plans]:
            each.result()
    assert store.recommendations() in plans
