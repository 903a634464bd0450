"""Decides which worker serves which model, if this process is the one that leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import structlog

from nexus_jobs.config import SchedulerSettings
from nexus_jobs.demand import Demands, Seen
from nexus_jobs.fleet import (
    WHOLE_FLEET,
    Assignment,
    Decision,
    ModelState,
    Recommendation,
    WorkerReport,
)
from nexus_jobs.placement import Fleet, Plan, Policy, Seat, WorkerLoad
from nexus_jobs.ports import FleetStore, JobStore, ScheduleStore
from nexus_jobs.rebalance import rebalance

log = structlog.get_logger(__name__)

_ON_THE_WAY = frozenset({ModelState.LOADING, ModelState.WARMING, ModelState.DRAINING})
"""A model that drains where it is wanted comes back."""
COUNTED_JOBS = 100_000
"""A backlog is counted up to here; beyond it the need is beyond doubt."""


class Scheduling:
    """Rounds of decisions. What it remembers only sharpens them: a successor starts without it."""

    def __init__(
        self,
        *,
        holder: str,
        jobs: JobStore,
        fleet: FleetStore,
        schedule: ScheduleStore,
        reports: Callable[[], Sequence[WorkerReport]],
        settings: SchedulerSettings,
    ) -> None:
        self._holder = holder
        self._jobs = jobs
        self._fleet = fleet
        self._schedule = schedule
        self._reports = reports
        self._settings = settings
        self._policy = Policy(
            slo_seconds=settings.slo_seconds,
            dwell_seconds=settings.dwell_seconds,
            idle_seconds=settings.idle_seconds,
        )
        self._demands = Demands()
        self._looked_at: float | None = None
        self._blocked: Mapping[str, str] = {}

    def round(self) -> bool:
        """Look, decide, and write down what changes; whether this process leads.

        Raises:
            StoreUnavailable: nothing was decided.
        """
        if not self._schedule.lead(self._holder, seconds=self._settings.leader_seconds):
            self._looked_at = None
            return False
        seen = self._look()
        plan = rebalance(self._fleet_of(seen), self._policy)
        self._carry_out(plan)
        return True

    def stop(self) -> None:
        """Let another scheduler lead at once.

        Raises:
            StoreUnavailable: it leads when this one's time is over.
        """
        self._schedule.stop_leading(self._holder)

    def _look(self) -> Seen:
        now = self._schedule.clock()
        elapsed = now - self._looked_at if self._looked_at is not None else 0.0
        self._looked_at = now
        registered = self._fleet.registered()
        return Seen(
            now=now,
            registered=registered,
            reports=[report for report in self._reports() if not report.draining],
            queued=self._jobs.backlog([known.name for known in registered], COUNTED_JOBS),
            arrived=self._jobs.arrivals(elapsed) if elapsed else {},
        )

    def _fleet_of(self, seen: Seen) -> Fleet:
        assigned = self._schedule.assignments()
        workers = [self._worker(report, assigned) for report in seen.reports]
        return Fleet(seen.now, self._demands.observe(seen), workers)

    def _worker(self, report: WorkerReport, assigned: Sequence[Assignment]) -> WorkerLoad:
        if report.fixed:
            seats = {name: Seat(one.state, -inf) for name, one in report.models.items()}
        else:
            mine = [one for one in assigned if one.worker == report.id]
            seats = {one.model: self._seat(one, report) for one in mine}
        return WorkerLoad(
            id=report.id,
            memory_mb=inf if report.memory_mb is None else report.memory_mb,
            max_models=report.max_models,
            fixed=report.fixed,
            seats=seats,
        )

    def _seat(self, assignment: Assignment, report: WorkerReport) -> Seat:
        served = report.models.get(assignment.model)
        if served is None or served.state in _ON_THE_WAY:
            return Seat(ModelState.LOADING, assignment.since)
        return Seat(served.state, assignment.since)

    def _carry_out(self, plan: Plan) -> None:
        decisions = [
            Decision(
                action=move.action,
                model=move.model,
                worker=move.worker,
                reason=move.reason,
            )
            for move in plan.moves
        ]
        if decisions and self._schedule.decide(self._holder, decisions):
            for decision in decisions:
                log.info(
                    f"model.{decision.action}",
                    model=decision.model,
                    worker=decision.worker,
                    reason=decision.reason,
                )
        for model, reason in plan.blocked.items():
            if self._blocked.get(model) != reason:
                log.warning("model.blocked", model=model, reason=reason)
        self._blocked = plan.blocked
        self._schedule.recommend(_recommendations(plan))


def _recommendations(plan: Plan) -> list[Recommendation]:
    total = Recommendation(
        model=WHOLE_FLEET, replicas=plan.total_workers, reason="what all models need together"
    )
    each = [
        Recommendation(model=one.model, replicas=one.replicas, reason=one.reason)
        for one in plan.recommendations
    ]
    return [total, *each]
