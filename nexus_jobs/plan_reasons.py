"""Sentences, with the figures, that tell an operator why a model moves or has no worker."""

from __future__ import annotations

from nexus_jobs.fleet import Wanted
from nexus_jobs.planned import PlannedModel


def excess(model: PlannedModel) -> str:
    """Why it is on too many workers."""
    if model.demand.wanted is Wanted.UNLOADED:
        return f"{model.name} is to be unloaded"
    if model.idle:
        return f"{model.name} has had no job for {model.demand.idle_seconds:.0f} s"
    return f"{model.name} may have {model.most:.0f} replicas and has {len(model.workers)}"


def shortage(model: PlannedModel) -> str:
    """Why it gets another worker."""
    demand = model.demand
    if model.lacks_reserve:
        return (
            f"{model.name} has {model.speed:.1f} workers and should have {model.cover:.1f} "
            f"in case of a burst: {demand.arrival:.2f} jobs a second arrive"
        )
    gets = model.need / model.strain
    return (
        f"{model.name} needs {model.need:.2f} workers and gets {gets:.2f}: "
        f"{demand.queued} jobs wait (the oldest {demand.oldest_wait or 0:.0f} s), "
        f"{demand.arrival:.2f} a second arrive"
    )


def obstacle(model: PlannedModel) -> str:
    """Why it has no worker."""
    if model.demand.wanted is Wanted.UNLOADED:
        return "it is to stay unloaded"
    if model.failed:
        workers = ", ".join(worker.id for worker in model.failed)
        return f"it failed to load; {workers} will try again"
    return "no worker can make room for it yet"
