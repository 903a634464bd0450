"""What a store promises about registered models and workers."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from nexus_jobs.fleet import ModelState, ServedModel, WorkerReport
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
