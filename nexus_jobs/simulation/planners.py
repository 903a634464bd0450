"""Ways to assign models to workers: ours, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from nexus_jobs.forecast import Forecast
from nexus_jobs.placement import Demand, Fleet, Move, Policy
from nexus_jobs.rebalance import rebalance
from nexus_jobs.simulation.cluster import Cluster
from nexus_jobs.simulation.traffic import Array, SimulatedModel, Traffic

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
    policy = Policy(dwell_seconds=0, hysteresis=0.01, utilisation=1)
    demands = [demand(model, 0, rate) for model, rate in zip(models, mean, strict=True)]
    for _ in range(ROUNDS):
        plan = rebalance(Fleet(0.0, demands, cluster.loads), policy)
        cluster.apply(0.0, plan.moves, at_once=True)
        cluster.settle(0.0)
        if not plan.moves:
            break


def static(_step: int, _now: float, _cluster: Cluster) -> Iterable[Move]:
    """Leave everything as it was at the beginning of the day."""
    return ()


class Forecasting:
    """The policy as the scheduler runs it: with rates smoothed and carried on."""

    def __init__(self, traffic: Traffic, policy: Policy) -> None:
        self._traffic = traffic
        self._policy = policy
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
        return rebalance(Fleet(now, demands, cluster.loads), self._policy).moves


class Chasing:
    """Goes by the last step and the queues, as if moves were free and need not pay."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._policy = Policy(
            slo_seconds=traffic.step, utilisation=1, dwell_seconds=0, hysteresis=0
        )

    def __call__(self, step: int, now: float, cluster: Cluster) -> Iterable[Move]:
        rates = self._traffic.jobs[max(0, step - 1)] / self._traffic.step
        seen = zip(self._traffic.models, cluster.backlog.tolist(), rates.tolist(), strict=True)
        demands = [replace(demand(*each), load_seconds=0.0) for each in seen]
        return rebalance(Fleet(now, demands, cluster.loads), self._policy).moves


class Foreseeing:
    """The policy with the highest rate of the next minutes known exactly."""

    def __init__(self, traffic: Traffic, policy: Policy) -> None:
        self._traffic = traffic
        self._policy = policy
        self._ahead = max(1, round(FORESIGHT_SECONDS / traffic.step))

    def __call__(self, step: int, now: float, cluster: Cluster) -> Iterable[Move]:
        coming = self._traffic.jobs[step : step + self._ahead]
        smooth = 6
        usable = len(coming) // smooth * smooth
        means = (
            coming[:usable].reshape(-1, smooth, coming.shape[1]).mean(axis=1)
            if usable
            else coming.mean(axis=0, keepdims=True)
        )
        rates: Array = np.max(means, axis=0) / self._traffic.step
        seen = zip(self._traffic.models, cluster.backlog.tolist(), rates.tolist(), strict=True)
        demands = [demand(*each) for each in seen]
        return rebalance(Fleet(now, demands, cluster.loads), self._policy).moves
