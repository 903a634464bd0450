"""Commits finished rows in groups, so that the batch never waits for the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.execution import Settlement
from nexus_jobs.groups import Groups, in_parts
from nexus_jobs.job import Job, Outcome
from nexus_jobs.retry import described

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt that is over; the outcome is made later, since decoding its text takes time."""

    job: Job
    outcome: Callable[[], Outcome]


class Finisher:
    """A queue of finished attempts; all that arrived during one commit share the next.

    An outcome that cannot be made or recorded is replaced by that of `failed`, and harms no other.
    """

    def __init__(
        self,
        settlement: Settlement,
        settled: Callable[[Sequence[Job]], None],
        failed: Callable[[Job, Exception], Outcome],
    ) -> None:
        self._settlement = settlement
        self._failed = failed
        self._settled = settled
        self._groups = Groups("finisher", self._commit)
        self._give_up_at = float("inf")

    def put(self, finished: Finished) -> None:
        self._groups.put(finished)

    def run(self) -> None:
        """Commit group after group until `stop`."""
        self._groups.run()

    def stop(self, give_up_at: float) -> None:
        """End after all that was put before; a database that is away is given up then.

        `give_up_at` is on the monotonic clock. What is given up is run again elsewhere when its
        lease lapses.
        """
        self._give_up_at = give_up_at
        self._groups.stop()

    def _commit(self, group: Sequence[Finished]) -> None:
        attempts = [(finished.job, self._outcome(finished)) for finished in group]
        for part, error in in_parts(attempts, self._settle):
            if error is not None:  # then it is the part of one
                [(job, _)] = part
                log.error("outcome.refused", job=job.id, trace=described(error).trace)
                self._settle([(job, self._failed(job, error))])
        self._settled([finished.job for finished in group])

    def _settle(self, attempts: Sequence[tuple[Job, Outcome]]) -> None:
        """Record all of them; waits for a database that is away, until that is to be given up."""
        jobs, outcomes = zip(*attempts, strict=True)
        while True:
            try:
                self._settlement.settle(jobs, outcomes)
            except StoreUnavailable as error:
                log.warning("finish.failed", jobs=len(jobs), reason=str(error))
                if time.monotonic() >= self._give_up_at:
                    return
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _outcome(self, finished: Finished) -> Outcome:
        """The outcome; if it cannot be made, that is this attempt's affair alone."""
        try:
            return finished.outcome()
        except Exception as error:  # a decoder may raise anything
            log.exception("outcome.failed", job=finished.job.id)
            return self._failed(finished.job, error)
