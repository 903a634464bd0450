"""How many replicas and workers there would be if there were no limit to workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf, isfinite

from nexus_jobs.fleet import Wanted
from nexus_jobs.placement import Policy, Recommendation
from nexus_jobs.planned import PlannedModel, PlannedWorker


def recommend(model: PlannedModel, policy: Policy) -> Recommendation:
    """Replicas for what arrives and for its backlog, within what a person allows."""
    demand = model.demand
    limit = inf if policy.idle_seconds is None else policy.idle_seconds
    in_use = demand.queued or demand.running or demand.idle_seconds < limit
    needed = max(1, ceil(model.arriving + model.waiting)) if in_use else 0
    replicas = int(min(model.most, max(model.floor, needed)))
    if demand.wanted is Wanted.UNLOADED:
        replicas = 0
    return Recommendation(model.name, replicas, model.arriving, model.waiting)


def total_workers(
    recommendations: Sequence[Recommendation],
    models: Mapping[str, PlannedModel],
    workers: Sequence[PlannedWorker],
) -> int:
    """Workers for all of that together: for their work, and for their memory, if they are as large
    as the present ones in the mean.
    """
    kept = [each for each in recommendations if each.replicas]
    work = sum(each.arriving + each.waiting for each in kept)
    memory = sum(models[each.model].memory for each in kept)
    sizes = [worker.reported.memory_mb for worker in workers]
    size = sum(sizes) / len(sizes) if sizes else inf
    by_memory = memory / size if isfinite(size) and size else 0.0
    largest = max((each.replicas for each in kept), default=0)
    return max(ceil(work), ceil(by_memory), largest)
