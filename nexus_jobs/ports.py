"""What the application needs from the outside world. Adapters implement these protocols."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from nexus_jobs.fleet import (
    Assignment,
    Decision,
    Measured,
    Origin,
    Recommendation,
    RegisteredModel,
    Wanted,
    WorkerReport,
)
from nexus_jobs.job import (
    Bulk,
    BulkProgress,
    BulkState,
    Cached,
    Job,
    JobError,
    Lease,
    NewJob,
    Outcome,
    Result,
)
from nexus_jobs.models import ModelConfig
from nexus_jobs.route import Route
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


class JobStore(Protocol):
    """The truth about jobs. Each method is one transaction; the clock is the database's.

    Every method raises StoreUnavailable when the database does not answer.
    """

    def add(self, jobs: Sequence[NewJob]) -> list[Job]:
        """Commit new jobs, all or none, and return them in the same order.

        In the place of a job whose idempotency key is kept stands the job of that key, as it is
        now; so the ids tell which jobs are new.

        Raises:
            InvalidRequest: a key stands for another submission.
        """

    def get(self, job_id: str) -> Job | None:
        """The job with its result, or None."""

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Those of the jobs that exist, with their results, by id."""

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

    def cancel_bulk(self, bulk_id: str, to: BulkState = BulkState.CANCELLED) -> list[str]:
        """Set the bulk's state and cancel its rows that have not ended; the ids of those rows."""

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


class FleetStore(Protocol):
    """The registered models and the workers that serve them."""

    def sync_models(self, models: Sequence[ModelConfig]) -> None:
        """Bring what comes from the models file in line with it.

        Models that came by the API stay, unless the file names them too.
        """

    def models(self) -> list[ModelConfig]:
        """Those of the file in its order, then the others by name."""

    def registered(self) -> list[RegisteredModel]:
        """The same models, with all that is known of them."""

    def register(self, model: ModelConfig, origin: Origin = Origin.API) -> RegisteredModel:
        """Add a model, or a new version of it if its config has changed."""

    def versions(self, name: str) -> list[tuple[int, float, ModelConfig]]:
        """Each version of a model, oldest first: its number, when it was registered, its config.

        Those of a model that is not registered any more are kept.
        """

    def remove_model(self, name: str) -> bool:
        """Take a model off the registry; whether it was there. Its jobs stay."""

    def want(self, name: str, wanted: Wanted) -> RegisteredModel | None:
        """Say what is wanted of a model; as it is now, or None if there is none."""

    def note_measured(self, name: str, measured: Measured) -> None:
        """Keep what loading took, if the model is still registered."""

    def report(self, worker: WorkerReport) -> None:
        """Insert or refresh a worker's row."""

    def retire(self, worker_id: str, pid: int) -> None:
        """Remove a worker that has stopped, unless another process reports under its name."""

    def workers(self, *, max_age: float) -> list[WorkerReport]:
        """Workers that reported in the last `max_age` seconds."""


class ScheduleStore(Protocol):
    """Which worker is to serve which model, and why."""

    def clock(self) -> float:
        """The store's clock, in seconds since the epoch."""

    def lead(self, holder: str, *, seconds: float) -> bool:
        """Become or stay the one scheduler that decides, for so long; whether that succeeded."""

    def stop_leading(self, holder: str) -> None:
        """Let another lead at once, if this one does."""

    def assignments(self) -> list[Assignment]:
        """All of them, by worker and model."""

    def assigned(self, worker: str) -> list[RegisteredModel]:
        """The models that a worker is to serve."""

    def decide(self, holder: str, decisions: Sequence[Decision]) -> bool:
        """Change the assignments and keep the reasons, all or none; False if another leads."""

    def forget_worker(self, worker: str) -> None:
        """Drop a worker's assignments."""

    def decisions(self, limit: int) -> list[Decision]:
        """The latest, newest first."""

    def recommend(self, replicas: Sequence[Recommendation]) -> None:
        """Replace all recommendations."""

    def recommendations(self) -> list[Recommendation]: ...


class LiveLoads(Protocol):
    """The latest reports of the workers, some seconds old at most; nothing depends on them."""

    def put(self, report: WorkerReport) -> None:
        """Publish a worker's report for a few seconds; a failure is logged and ignored."""

    def drop(self, worker: str) -> None:
        """The worker has stopped."""

    def all(self) -> dict[str, WorkerReport]:
        """By worker; empty if they cannot be read."""


class RouteStore(Protocol):
    """Public names that stand for models."""

    def routes(self) -> list[Route]:
        """In the order of their names."""

    def put_route(self, route: Route) -> None:
        """Add a route, or replace the one of that name.

        Raises:
            Conflict: a model has the name.
        """

    def remove_route(self, name: str) -> bool:
        """Whether there was one."""


class TicketQueue(Protocol):
    """Tells workers that there is work. Losing or repeating a ticket does no harm."""

    def ring(self, counts: Mapping[str, int]) -> None:
        """Say how many new jobs each model has.

        Raises:
            QueueUnavailable: Redis did not answer; the scheduler rings again later.
        """

    def waiting(self, model: str) -> int:
        """How many tickets of the model no worker has taken yet."""


class ResultCache(Protocol):
    """One level of disposable copies of results, by fingerprint."""

    level: Cached

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        """Those of the results that this level has; none if it cannot be reached."""

    def put(self, results: Mapping[str, Result]) -> None:
        """Keep copies; a failure is logged and otherwise ignored."""


class Channel(StrEnum):
    """What a signal between processes is about."""

    ENDED = "ended"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The model of a job, and its fields that got their last value when it ran and ended.

    Where both result and error are missing, only the row has them.
    """

    model: str
    state: State
    attempt: int
    started_at: float | None
    finished_at: float
    worker: str | None
    result: Result | None = None
    error: JobError | None = None

    @property
    def whole(self) -> bool:
        return self.result is not None or self.error is not None


Hints = Mapping[str, Ending | None]
"""Jobs by id; with how they ended where the sender knows, else None: the row has it."""


class Signals(Protocol):
    """Hints between processes, delivered at most once; every listener can do without them."""

    def send(self, channel: Channel, hints: Hints) -> None:
        """Send hints about jobs; a failure is logged and otherwise ignored."""

    def listen(self, channel: Channel, heard: Callable[[Hints], None]) -> None:
        """Call `heard` from a background thread for the hints of each message, until `close`."""

    def close(self) -> None: ...


class Clock(Protocol):
    """Monotonic seconds, for waits and measurements inside one process."""

    def __call__(self) -> float: ...
