"""What is kept of jobs and bulks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nexus_jobs.job import (
    Bulk,
    BulkProgress,
    BulkState,
    Idempotency,
    Job,
    Lease,
    NewJob,
    Outcome,
    Result,
)
from nexus_jobs.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs a list shows; None is any. Shadows are shown by themselves or not at all."""

    state: State | None = None
    model: str | None = None
    route: str | None = None
    bulk_id: str | None = None
    shadows: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The state that an outcome led to, and when."""

    state: State
    at: float


def ignore(_: object) -> None:
    """For who does not want to be told."""


class JobStore(Protocol):
    """The truth about jobs. Each method is one transaction; the clock is the database's.

    Every method raises StoreUnavailable when the database does not answer.
    """

    def add(
        self,
        jobs: Sequence[NewJob],
        claimable: Callable[[Sequence[Job]], None] = ignore,
        *,
        durable: bool = True,
    ) -> list[Job]:
        """Commit new jobs, all or none, and return them in the same order.

        `claimable` is told what will be returned as soon as every claim that begins from then on
        will find them, which may be in vain if the commit fails then. It must not block or raise.

        On return they are on the disk. If they need not be `durable`, a crash of the database's
        machine or server may undo them until something that is durable is committed after them,
        such as an end, or `flush` has been called.

        In the place of a job whose idempotency key is kept stands the job of that key, as it is
        now; so the ids tell which jobs are new.

        Raises:
            InvalidRequest: a key stands for another submission.
        """

    def flush(self) -> None:
        """Wait until all that has been added, and is still there, is on the disk."""

    def get(self, job_id: str) -> Job | None:
        """The job with its result, or None."""

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Those of the jobs that exist, with their results, by id."""

    def find_keyed(self, mine: Idempotency) -> Job | None:
        """The job, as it is now, of an idempotency key that is kept; None if it is not.

        Raises:
            InvalidRequest: the key stands for another submission.
        """

    def search(self, which: JobFilter, *, limit: int, before: str | None = None) -> Sequence[Job]:
        """Up to `limit` jobs, newest first (ids sort by time), older than the id `before`."""

    def claim(
        self,
        model: str,
        limit: int,
        *,
        worker: str,
        lease_seconds: float,
        suspects: bool = False,
    ) -> list[Job]:
        """Take up to `limit` of the model's queued jobs, earliest `due_at` first, under leases.

        Either suspects only, or none of them. What is held back by `run_after` stays.
        """

    def finish(self, outcomes: Sequence[Outcome]) -> dict[Lease, Settled]:
        """Record how attempts ended, and tell what came of it.

        An outcome whose lease is no longer held changes nothing and is absent from the answer.
        """

    def heartbeat(self, leases: Sequence[Lease], *, lease_seconds: float) -> set[Lease]:
        """Extend leases; those that are still held."""

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a job that has not ended; the job as it stands now, or None if there is none."""

    def requeue_lapsed(self) -> dict[str, State]:
        """Take back jobs whose lease has run out: queued again as suspects, or dead if their
        attempts are spent."""

    def replay(self, draft: NewJob) -> Job | None:
        """Queue a failed or dead job again, as the draft of the same id has it: its request, when
        it is due, and how many more attempts it gets. None if no such job is failed or dead.
        """

    def reroute(
        self, route: str, model: str, to: str, *, at_most: int, reproducible: bool = False
    ) -> int:
        """Give a model's queued jobs that came by a route to another model; how many.

        Those that must be reproducible stay, unless the other model is `reproducible`.
        """

    def expire_overdue(self) -> list[str]:
        """Expire queued jobs that are past `expires_at`; their ids."""

    def forget_keys(self) -> int:
        """Drop idempotency keys whose time is over; how many. They counted as new before that."""

    def backlog(self, models: Sequence[str], at_most: int) -> dict[str, int]:
        """How many jobs are ready to run, counted up to `at_most`, for those models with any."""

    def arrivals(self, seconds: float) -> dict[str, int]:
        """How many jobs were submitted one by one in the last `seconds`, by model."""

    def position(self, job: Job, at_most: int) -> int:
        """How many queued jobs of its model come before a queued job, counted up to `at_most`."""

    def counts(self) -> dict[tuple[str, State], int]:
        """How many jobs are queued or running, by model and state."""

    def find_results(self, fingerprints: Sequence[str], *, max_age: float) -> dict[str, Result]:
        """The newest result computed for each fingerprint in the last `max_age` seconds."""


class BulkStore(Protocol):
    """Bulks; their rows are jobs and are added through JobStore."""

    def add_bulk(self, bulk: Bulk) -> Bulk:
        """Commit a new bulk (its `submitted_at` is set by the database)."""

    def get_bulk(self, bulk_id: str) -> Bulk | None: ...

    def accept_bulk(self, bulk_id: str) -> Bulk:
        """Turn an importing bulk into an accepted one.

        Raises:
            Conflict: it is no longer importing (given up, or cancelled).
        """

    def cancel_bulk(self, bulk_id: str, to: BulkState = BulkState.CANCELLED) -> bool:
        """Give the bulk up, so that it takes no more rows; whether its state allowed that.

        Its rows go on until `cancel_rows` has cancelled them.
        """

    def cancel_rows(self, bulk_id: str, *, at_most: int) -> list[str]:
        """Cancel up to `at_most` rows, that have not ended, of a bulk that was given up; their ids.
        Those that are queued come first.

        A bulk may have a million rows, and whoever cancelled them in one transaction would keep
        all others waiting meanwhile. If there is none left, the bulk is not `ending` any more.
        """

    def ending_bulks(self) -> list[str]:
        """Bulks that were given up and may have rows left for `cancel_rows`."""

    def replay_bulk(
        self, bulk_id: str, *, attempts: int, slack_seconds: Sequence[float]
    ) -> Counter[str]:
        """Queue the bulk's failed and dead rows again, but for those that never ran; how many of
        each model.

        Each gets so many `attempts` more, and the slack of its priority.
        """

    def bulk_progress(self, bulk_id: str, *, window: float = 10.0) -> BulkProgress: ...

    def bulk_rows(self, bulk_id: str, *, chunk: int = 1000) -> Iterator[Job]:
        """The bulk's jobs with cells and results, in input order, read a chunk at a time."""

    def stale_imports(self, timeout: float) -> list[str]:
        """Bulks that are importing but have had no new row for `timeout` seconds."""
