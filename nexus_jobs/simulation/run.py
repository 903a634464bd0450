"""Runs one way of assigning models through a day, and says how long jobs waited."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nexus_jobs.simulation.cluster import Cluster
from nexus_jobs.simulation.planners import Planner, settle
from nexus_jobs.simulation.traffic import Array, Traffic


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


def simulate(traffic: Traffic, workers: int, planner: Planner) -> Outcome:
    """A decision at the beginning of each step; the day begins with what suits its mean."""
    cluster = Cluster(workers, traffic.models, traffic.step)
    settle(cluster, traffic.models, traffic.jobs.mean(axis=0) / traffic.step)
    seconds = np.array([model.worker_seconds for model in traffic.models])
    served = np.zeros_like(traffic.jobs)
    loads = 0
    for step in range(len(traffic.jobs)):
        now = step * traffic.step
        cluster.settle(now)
        moves = list(planner(step, now, cluster))
        cluster.apply(now, moves)
        loads += sum(move.action == "load" for move in moves)
        served[step] = cluster.serve(traffic.jobs[step] * seconds) / seconds
    waits, jobs = _waits(traffic, served)
    p50, p95, p99 = _percentiles(waits, jobs, (0.5, 0.95, 0.99))
    worked = float((served * seconds).sum()) / (workers * served.shape[0] * traffic.step)
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
