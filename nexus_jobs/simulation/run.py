"""Runs ways of assigning models through a day, and says how long jobs waited."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from os import cpu_count

import numpy as np

from nexus_jobs.fleet import Action
from nexus_jobs.simulation.cluster import Cluster
from nexus_jobs.simulation.planners import PLANNERS, settle
from nexus_jobs.simulation.traffic import Array, Scenario, Traffic, make_traffic


@dataclass(frozen=True, slots=True)
class Outcome:
    """Waits in seconds from arrival to start, over all jobs; `loads` is how often a model was
    put on a worker; `utilisation` the part of all workers' time that went into jobs.
    """

    utilisation: float
    mean: float
    p50: float
    p95: float
    p99: float
    loads: int
    unserved: float
    """Jobs that still waited at the end; they count with the time they had waited by then."""


def compare(scenario: Scenario, names: Sequence[str]) -> dict[str, Outcome]:
    """Each of the named planners on the same day, side by side in processes of their own."""
    with ProcessPoolExecutor(
        min(len(names), cpu_count() or 1), mp_context=get_context("spawn")
    ) as pool:
        outcomes = pool.map(partial(simulate, scenario), names)
        return dict(zip(names, outcomes, strict=True))


def simulate(scenario: Scenario, name: str) -> Outcome:
    """A decision at the beginning of each step; the day begins with what suits its mean."""
    traffic = make_traffic(scenario)
    planner = PLANNERS[name](traffic)
    cluster = Cluster(scenario.workers, traffic.models, traffic.step)
    settle(cluster, traffic.models, traffic.jobs.mean(axis=0) / traffic.step)
    seconds = np.array([model.worker_seconds for model in traffic.models])
    served = np.zeros_like(traffic.jobs)
    loads = 0
    for step in range(len(traffic.jobs)):
        now = step * traffic.step
        cluster.settle(now)
        moves = list(planner(step, now, cluster))
        cluster.apply(now, moves)
        loads += sum(move.action is Action.LOAD for move in moves)
        served[step] = cluster.serve(traffic.jobs[step] * seconds) / seconds
    waits, jobs = _waits(traffic, served)
    p50, p95, p99 = _percentiles(waits, jobs, (0.5, 0.95, 0.99))
    worked = float((served * seconds).sum()) / (scenario.workers * len(served) * traffic.step)
    mean = float(np.average(waits, weights=jobs))
    unserved = float(traffic.jobs.sum() - served.sum())
    return Outcome(worked, mean, p50, p95, p99, loads, unserved)


def _waits(traffic: Traffic, served: Array) -> tuple[Array, Array]:
    """For the jobs of each step and model: the wait of the middle one, and how many they are."""
    times = np.arange(1, len(served) + 1) * traffic.step
    arrived, started = traffic.jobs.cumsum(axis=0), served.cumsum(axis=0)
    middle = arrived - traffic.jobs / 2
    starts = np.column_stack(
        [np.interp(middle[:, m], started[:, m], times) for m in range(served.shape[1])]
    )
    waits = np.maximum(0, starts - (times - traffic.step / 2)[:, None])
    return waits.ravel(), traffic.jobs.ravel()


def _percentiles(values: Array, weights: Array, shares: tuple[float, ...]) -> list[float]:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    found = np.searchsorted(reached, np.asarray(shares) * reached[-1])
    return [float(value) for value in values[order][found]]
