"""What is known of a model and of the workers, all sources together."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from nexus_jobs.adapters.memory_fleet import MemoryFleet
from nexus_jobs.adapters.memory_loads import MemoryLoads
from nexus_jobs.fleet import ModelState, RegisteredModel, ServedModel, Wanted, WorkerReport
from nexus_jobs.fleet_view import Availability, FleetView, status_of
from nexus_jobs.models import ModelConfig

MODEL = RegisteredModel(config=ModelConfig(name="m"))


def worker(name: str, state: ModelState | None = None) -> WorkerReport:
    models = {"m": ServedModel(state)} if state else {}
    return WorkerReport(id=name, host="h", pid=1, device="cpu", models=models)


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["failed", "ready", "loading"], "ready"),
        (["failed", "loading", "warming"], "warming"),
        (["draining", "loading"], "loading"),
        (["failed", "draining"], "draining"),
        (["failed"], "failed"),
        ([], "registered"),
    ],
)
def test_a_model_stands_as_well_as_on_its_best_worker(states: list[str], state: str) -> None:
    workers = [worker(f"w{place}", ModelState(one)) for place, one in enumerate(states)]
    assert status_of(MODEL, [*workers, worker("idle")]).state == state


def test_a_model_that_nobody_wants_is_unloaded_once_nobody_has_it() -> None:
    unwanted = replace(MODEL, wanted=Wanted.UNLOADED)
    draining = [worker("w", ModelState.DRAINING)]
    assert status_of(unwanted, draining).state is Availability.DRAINING
    assert status_of(unwanted, [worker("w", ModelState.FAILED)]).state is Availability.UNLOADED
    assert status_of(unwanted, []).state is Availability.UNLOADED


def test_live_reports_count_more_and_heartbeats_fill_the_gaps() -> None:
    store, loads = MemoryFleet(), MemoryLoads()
    store.report(worker("both", ModelState.LOADING))
    store.report(worker("stored", ModelState.READY))
    loads.put(worker("both", ModelState.READY))
    loads.put(worker("new", ModelState.WARMING))
    seen = FleetView(store, loads).workers()
    assert [(one.id, one.models["m"].state) for one in seen] == [
        ("both", "ready"), ("new", "warming"), ("stored", "ready"),
    ]  # fmt: skip
    assert all(one.seen_at == pytest.approx(time.time(), abs=5.0) for one in seen)


def test_a_view_is_read_again_after_a_second() -> None:
    now = 100.0
    store = MemoryFleet()
    view = FleetView(store, MemoryLoads(), lambda: now)
    assert view.workers() == []
    store.report(worker("late"))
    now += 0.9
    assert view.workers() == []
    now += 0.2
    assert [one.id for one in view.workers()] == ["late"]
