"""Small fleets for the tests of the rebalancing policy, and what becomes of them under a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_jobs.fleet import ModelState
from nexus_jobs.placement import Demand, Fleet, Move, Seat, WorkerLoad

NOW = 10_000.0
LONG_AGO = 0.0


def model(name: str, needs: float = 0.0, **fields: object) -> Demand:
    """A model of which one job a second takes a whole worker; `needs` so many workers."""
    values: dict[str, object] = {
        "tokens_per_job": 100.0,
        "tokens_per_second": 100.0,
        "arrival": needs,
        "running": 1 if needs else 0,
        "idle_seconds": 0.0 if needs else 100.0,
        "memory_mb": 10.0,
        "load_seconds": 30.0,
    }
    return Demand(model=name, **(values | fields))  # type: ignore[arg-type]


def worker(
    name: str,
    *models: str,
    state: ModelState = ModelState.READY,
    since: float = LONG_AGO,
    memory_mb: float = 10.0,
    **fields: object,
) -> WorkerLoad:
    seats = {each: Seat(state, since) for each in models}
    return WorkerLoad(id=name, memory_mb=memory_mb, seats=seats, **fields)  # type: ignore[arg-type]


def fleet(demands: Iterable[Demand], workers: Iterable[WorkerLoad], now: float = NOW) -> Fleet:
    return Fleet(now, tuple(demands), tuple(workers))


def after(workers: Iterable[WorkerLoad], moves: Iterable[Move], now: float) -> list[WorkerLoad]:
    """The workers once the moves are done and all loads have ended well."""
    loads = {each.id: dict(each.seats) for each in workers}
    for move in moves:
        if move.action == "unload":
            del loads[move.worker][move.model]
        else:
            loads[move.worker][move.model] = Seat(ModelState.READY, now)
    return [replace(each, seats=loads[each.id]) for each in workers]
