"""Decides which models each worker should run: a snapshot of the fleet in, a plan out."""

from __future__ import annotations

from nexus_jobs.placement import Fleet, Plan, Policy


def rebalance(fleet: Fleet, policy: Policy) -> Plan:
    """What to load and unload now. The same snapshot always gives the same plan."""
    raise NotImplementedError
