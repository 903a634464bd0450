"""Who waits for a model is let go in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread

import pytest

from nexus_jobs import registry
from nexus_jobs.adapters.memory_loads import MemoryLoads
from nexus_jobs.adapters.memory_store import MemoryStore
from nexus_jobs.catalog import Catalog
from nexus_jobs.config import LoadBalancerSettings
from nexus_jobs.fleet import ModelState, ServedModel, Wanted, WorkerReport
from nexus_jobs.fleet_view import FleetView
from nexus_jobs.registry import Registry
from tests.unit.memory_services import MODEL

LONG = 60.0


def a_registry(stopping: Callable[[], bool] = lambda: False, **served: ModelState) -> Registry:
    store = MemoryStore()
    store.sync_models([MODEL])
    models = {name: ServedModel(state) for name, state in served.items()}
    store.report(WorkerReport(id="w", host="h", pid=1, device="cpu", models=models))
    view = FleetView(store, MemoryLoads())
    return Registry(
        routes=store,
        catalog=Catalog(store, store, LoadBalancerSettings()),
        fleet=store,
        jobs=store,
        view=view,
        check=lambda _config: None,
        stopping=stopping,
    )


@pytest.mark.parametrize("state", [ModelState.READY, ModelState.FAILED])
def test_a_load_that_is_over_is_not_waited_for(state: ModelState) -> None:
    started = time.monotonic()
    a_registry(simulated=state).want("simulated", Wanted.LOADED, LONG)
    assert time.monotonic() - started < LONG / 2


def test_nobody_waits_for_what_is_left_to_the_scheduler() -> None:
    started = time.monotonic()
    a_registry().want("simulated", Wanted.AUTO, LONG)
    assert time.monotonic() - started < LONG / 2


def test_a_process_that_stops_keeps_nobody_waiting() -> None:
    started = time.monotonic()
    a_registry(stopping=lambda: True).want("simulated", Wanted.LOADED, LONG)
    assert time.monotonic() - started < LONG / 2


def test_only_so_many_wait_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "WAITERS", 1)
    asked, over = [], False

    def stopping() -> bool:
        asked.append(True)
        return over

    crowded = a_registry(stopping, simulated=ModelState.LOADING)
    first = Thread(target=crowded.want, args=["simulated", Wanted.LOADED, LONG])
    first.start()
    while not asked:
        first.join(0.01)
    started = time.monotonic()
    crowded.want("simulated", Wanted.LOADED, LONG)
    assert time.monotonic() - started < LONG / 2
    assert first.is_alive()
    over = True
    first.join(LONG / 2)
    assert not first.is_alive()
