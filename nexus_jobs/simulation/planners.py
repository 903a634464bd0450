"""Ways to assign models to workers: ours, and what it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nexus_jobs.fleet import Action, ModelState
from nexus_jobs.forecast import Forecast
from nexus_jobs.placement import Demand, Fleet, Move, Policy
from nexus_jobs.rebalance import rebalance
from nexus_jobs.simulation.cluster import Cluster
from nexus_jobs.simulation.traffic import WORKER_MEMORY_MB, Array, SimulatedModel, Traffic

FORESIGHT_SECONDS: Final = 300.0
ROUNDS: Final = 30

Planner = Callable[[int, float, Cluster], Iterable[Move]]
"""Given the number of the step that begins, the time, and the cluster: what to change now."""


def demand(model: SimulatedModel, backlog: float, arrival: float) -> Demand:
    """What a scheduler sees of a model with so many seconds of work waiting."""
    queued = int(backlog / model.worker_seconds)
    return Demand(
        model=model.name,
        queued=queued,
        running=1 if backlog or arrival else 0,
        arrival=arrival,
        tokens_per_job=model.tokens_per_job,
        tokens_per_second=model.tokens_per_second,
        memory_mb=model.memory_mb,
        load_seconds=model.load_seconds,
    )


def settle(cluster: Cluster, models: Sequence[SimulatedModel], mean: Array) -> None:
    """Give every worker the models that suit so many jobs a second best, without load times."""
    policy = Policy(dwell_seconds=0, hysteresis=0.01, reserve_hysteresis=0.01)
    demands = [demand(model, 0, rate) for model, rate in zip(models, mean, strict=True)]
    for _ in range(ROUNDS):
        plan = rebalance(Fleet(0.0, demands, cluster.loads), policy)
        cluster.apply(0.0, plan.moves, at_once=True)
        cluster.settle(0.0)
        if not plan.moves:
            break


class Static:
    """Leaves everything as it was at the beginning of the day."""

    def __init__(self, _traffic: Traffic) -> None:
        pass

    def __call__(self, _step: int, _now: float, _cluster: Cluster) -> Iterable[Move]:
        return ()


class Forecasting:
    """The policy as the scheduler runs it: with rates smoothed and carried on."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._forecasts = [Forecast(rate) for rate in traffic.jobs[0] / traffic.step]

    def __call__(self, step: int, now: float, cluster: Cluster) -> Iterable[Move]:
        if step:
            seen = zip(self._forecasts, self._traffic.jobs[step - 1].tolist(), strict=True)
            self._forecasts = [old.observe(jobs, self._traffic.step) for old, jobs in seen]
        demands = [
            demand(model, backlog, forecast.ahead(model.load_seconds))
            for model, backlog, forecast in zip(
                self._traffic.models, cluster.backlog.tolist(), self._forecasts, strict=True
            )
        ]
        return rebalance(Fleet(now, demands, cluster.loads), Policy()).moves


class Foreseeing:
    """The policy with the highest rate of the next minutes known exactly."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._peaks = _coming_peaks(traffic.jobs / traffic.step, traffic.step)

    def __call__(self, step: int, now: float, cluster: Cluster) -> Iterable[Move]:
        seen = zip(
            self._traffic.models,
            cluster.backlog.tolist(),
            self._peaks[step].tolist(),
            strict=True,
        )
        demands = [demand(*each) for each in seen]
        return rebalance(Fleet(now, demands, cluster.loads), Policy()).moves


def _coming_peaks(rates: Array, step: float) -> Array:
    """For each step, the highest minute's mean of those to come within the foresight."""
    minute, ahead = round(60 / step), round(FORESIGHT_SECONDS / step)
    padded = np.concatenate([rates, np.repeat(rates[-1:], ahead, axis=0)])
    means = sliding_window_view(padded, minute, axis=0).mean(axis=-1)
    peaks: Array = sliding_window_view(means, ahead - minute + 1, axis=0).max(axis=-1)
    return peaks


class Chasing:
    """Least loaded first, without hysteresis: a model that has more work than its workers can do in
    this step takes the least busy ones, from the models with least to do, as if moves were free.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._step = traffic.step
        self._seconds = np.array([model.worker_seconds for model in traffic.models])
        self._memory = {model.name: model.memory_mb for model in traffic.models}
        self._names = [model.name for model in traffic.models]

    def __call__(self, step: int, _now: float, cluster: Cluster) -> Iterable[Move]:
        arrived = self._traffic.jobs[max(0, step - 1)] * self._seconds
        work = dict(zip(self._names, (cluster.backlog + arrived).tolist(), strict=True))
        held = {load.id: list(load.seats) for load in cluster.loads}
        ready = {
            (load.id, name)
            for load in cluster.loads
            for name, seat in load.seats.items()
            if seat.state is ModelState.READY
        }
        seats = Counter(name for names in held.values() for name in names)
        share = {name: work[name] / max(1, seats[name]) for name in self._names}
        load = {worker: sum(share[name] for name in names) for worker, names in held.items()}
        order = sorted(held, key=lambda worker: load[worker])
        for name in sorted(self._names, key=lambda name: -share[name]):
            for worker in order:
                if work[name] <= self._step * seats[name] or load[worker] >= share[name]:
                    break
                if name not in held[worker]:
                    yield from self._swap(name, worker, held[worker], ready, work, share, seats)
                    load[worker] = share[name]

    def _swap(
        self,
        name: str,
        worker: str,
        held: list[str],
        ready: Set[tuple[str, str]],
        work: Mapping[str, float],
        share: Mapping[str, float],
        seats: Counter[str],
    ) -> Iterable[Move]:
        free = WORKER_MEMORY_MB - sum(self._memory[each] for each in held)
        for other in sorted(held, key=lambda each: share[each]):
            if free >= self._memory[name]:
                break
            spare = self._step * (seats[other] - 1) >= work[other]
            if spare and seats[other] > 1 and (worker, other) in ready:
                held.remove(other)
                seats[other] -= 1
                free += self._memory[other]
                yield Move(Action.UNLOAD, other, worker, "less to do")
        if free >= self._memory[name]:
            held.append(name)
            seats[name] += 1
            yield Move(Action.LOAD, name, worker, "more to do")


PLANNERS: Final[Mapping[str, Callable[[Traffic], Planner]]] = {
    "policy": Forecasting,
    "oracle": Foreseeing,
    "least-loaded": Chasing,
    "static": Static,
}
