"""What the scheduler does, over and over, so that nothing stays behind."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from nexus_jobs import telemetry
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.fleet import ModelState
from nexus_jobs.fleet_view import MAX_AGE
from nexus_jobs.job import BulkState
from nexus_jobs.ports import (
    BulkStore,
    Channel,
    FleetStore,
    JobStore,
    RouteStore,
    Signals,
    TicketQueue,
)
from nexus_jobs.routing import detours
from nexus_jobs.states import State

log = structlog.get_logger(__name__)

AUDIT_JOBS = 256
"""The most jobs that an audit rings for at once; the next audit rings for more."""
TELL_JOBS = 1000
"""Jobs looked up at once to be counted."""
CANCELLED_GROUPS = 10
"""The most groups of `TELL_JOBS` rows of a bulk that are cancelled in a round."""
MOVED_JOBS = 1000
"""The most jobs that change from one model to another in a round."""


class Maintenance:
    """Rounds of repairs. Each is a conditional statement, so two schedulers do no harm."""

    def __init__(
        self,
        *,
        store: JobStore,
        bulks: BulkStore,
        fleet: FleetStore,
        routes: RouteStore,
        tickets: TicketQueue,
        signals: Signals,
        import_timeout: float,
    ) -> None:
        self._store = store
        self._bulks = bulks
        self._fleet = fleet
        self._routes = routes
        self._tickets = tickets
        self._signals = signals
        self._import_timeout = import_timeout

    def round(self, *, leases: bool = True) -> None:
        """Take back lapsed leases, expire overdue jobs, give up dead imports, cancel what is left
        of bulks that were given up, take jobs of routes away from models that failed, ring again,
        and forget old idempotency keys.

        Without `leases`, lapsed ones are left alone.

        Raises:
            StoreUnavailable: the next round makes up for it.
        """
        if leases:
            self._return_leases()
        self._expire()
        self._abandon_imports()
        self._cancel_rows()
        self._leave_failed_models()
        self._ring_again()
        self._store.forget_keys()

    def _return_leases(self) -> None:
        lapsed = self._store.requeue_lapsed()
        dead = [job_id for job_id, state in lapsed.items() if state is State.DEAD]
        if lapsed:
            log.warning("leases.lapsed", jobs=len(lapsed), dead=len(dead))
            self._tell(dead)

    def _expire(self) -> None:
        expired = self._store.expire_overdue()
        if expired:
            log.info("jobs.expired", jobs=len(expired))
            self._tell(expired)

    def _abandon_imports(self) -> None:
        for bulk_id in self._bulks.stale_imports(self._import_timeout):
            if self._bulks.cancel_bulk(bulk_id, BulkState.ABANDONED):
                log.warning("bulk.abandoned", bulk=bulk_id)

    def _cancel_rows(self) -> None:
        """Go on with bulks whose rows nobody has cancelled to the end; that process may be dead."""
        for bulk_id in self._bulks.ending_bulks():
            for _ in range(CANCELLED_GROUPS):
                cancelled = self._bulks.cancel_rows(bulk_id, at_most=TELL_JOBS)
                if not cancelled:
                    break
                self._signals.send(Channel.CANCELLED, dict.fromkeys(cancelled))
                self._tell(cancelled)

    def _leave_failed_models(self) -> None:
        workers = self._fleet.workers(max_age=MAX_AGE)
        if not any(one.state is ModelState.FAILED for w in workers for one in w.models.values()):
            return
        models = {known.name: known for known in self._fleet.registered()}
        for route, model, other in detours(self._routes.routes(), workers, models.values()):
            reproducible = other in models and models[other].config.is_reproducible
            moved = self._store.reroute(
                route.name, model, other, at_most=MOVED_JOBS, reproducible=reproducible
            )
            if moved:
                log.warning("jobs.moved", route=route.name, jobs=moved, model=model, to=other)

    def _tell(self, ended: Sequence[str]) -> None:
        """Count the jobs that ended here, and wake whoever waits for them."""
        for start in range(0, len(ended), TELL_JOBS):
            ids = ended[start : start + TELL_JOBS]
            for job in self._store.get_many(ids).values():
                telemetry.jobs_ended.labels(job.request.model, job.state).inc()
            self._signals.send(Channel.ENDED, dict.fromkeys(ids))

    def _ring_again(self) -> None:
        """Ring for models that have ready jobs and no ticket: lost ones, or later attempts."""
        try:
            names = [model.name for model in self._fleet.models()]
            silent = [name for name in names if not self._tickets.waiting(name)]
            unannounced = self._store.backlog(silent, AUDIT_JOBS)
            if unannounced:
                self._tickets.ring(unannounced)
        except QueueUnavailable as error:
            log.warning("tickets.unsent", reason=str(error))
