"""What a job is, from the request that a person makes to the way it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nexus_jobs.states import TERMINAL, Event, State


class Cached(StrEnum):
    """Where a job's result came from."""

    NO = "no"
    MEMORY = "memory"
    REDIS = "redis"
    DATABASE = "database"


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"  # end-of-sequence token or a stop string
    LENGTH = "length"  # `max_tokens` reached, or the model's context is full


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation ends.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 switch those filters off. `seed` makes a
    sampled answer repeatable on a reproducible engine. The text ends before the first of `stop`.
    `min_tokens` and `ignore_eos` keep the end-of-sequence token from ending the text early.
    """

    max_tokens: int = 128
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person asked for: exactly one of `prompt` and `messages`, on one model.

    `priority` runs from 0 (most urgent) to 9; `expires_in` is in seconds from submission.
    `reproducible` asks for an engine whose answer does not depend on its batch.
    """

    model: str
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 5
    expires_in: float | None = None
    use_cache: bool = True
    reproducible: bool = False
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a job produced. Times are milliseconds spent in the prefill and in the decode steps."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job, or the last attempt at it, did not succeed: a stable code, a sentence for people,
    and for engineers the errors and the places in the code that led to it."""

    code: str
    message: str
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that is over as it is born: answered by the cache, or a bulk row that cannot run."""

    result: Result | None = None
    cached: Cached = Cached.NO
    error: JobError | None = None

    @property
    def state(self) -> State:
        return State.SUCCEEDED if self.result is not None else State.FAILED


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """A client's key for one submission, so that it can be repeated and still makes one job.

    `digest` tells the submission from others; the key is kept for `seconds` from its acceptance.
    """

    key: str
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job that is about to be committed.

    `slack` is the seconds within which it should start (`due_at = submitted_at + slack`).
    `fingerprint` names a deterministic request and is None for others. `cells` keeps the input
    row of a bulk, as read. `route` is the name under which the request came, if its model was
    chosen; `shadow_of` is the job that this is a copy of, whose answer nobody gets.
    """

    id: str
    request: Request
    slack: float
    max_attempts: int = 3
    fingerprint: str | None = None
    bulk_id: str | None = None
    bulk_index: int | None = None
    cells: Sequence[str] | None = None
    route: str | None = None
    shadow_of: str | None = None
    ended: Ended | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of one worker to finish one attempt at a job; fences late writes."""

    job_id: str
    attempt: int
    token: str

    def __str__(self) -> str:
        """Names this claim among all claims of all jobs.

        Job and attempt do not: a database that crashed may have forgotten the claim before.
        """
        return f"{self.job_id}/{self.attempt}/{self.token}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A committed job. Times are seconds since the epoch on the database's clock.

    A `suspect` was running when its process died or its batch was lost, so that it may be the
    cause: it shares a batch with suspects only, and with nobody on its last attempt. `run_after`
    holds an attempt back.
    """

    id: str
    request: Request
    state: State
    attempt: int
    max_attempts: int
    submitted_at: float
    due_at: float
    expires_at: float | None = None
    run_after: float | None = None
    suspect: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    lease_token: str | None = None
    worker: str | None = None
    fingerprint: str | None = None
    bulk_id: str | None = None
    bulk_index: int | None = None
    cells: Sequence[str] | None = None
    route: str | None = None
    shadow_of: str | None = None
    cached: Cached = Cached.NO
    result: Result | None = None
    error: JobError | None = None

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def is_last_attempt(self) -> bool:
        """No further attempt is left if this one fails."""
        return self.attempt >= self.max_attempts

    @property
    def lease(self) -> Lease:
        """The lease of a running job.

        Raises:
            ValueError: the job is not running.
        """
        if self.lease_token is None:
            raise ValueError(f"job {self.id} is {self.state} and has no lease")
        return Lease(self.id, self.attempt, self.lease_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one attempt ended: SUCCEED with a result, FAIL, REQUEUE or BURY with an error, RELEASE.

    A job that is queued again runs after `delay` seconds, and apart from others if it is a
    `suspect`.
    """

    lease: Lease
    event: Event
    result: Result | None = None
    error: JobError | None = None
    fingerprint: str | None = None
    delay: float = 0.0
    suspect: bool = False


class BulkState(StrEnum):
    """Where a bulk stands; the states of its rows say the rest."""

    IMPORTING = "importing"  # rows are being read; the upload has not been accepted yet
    ACCEPTED = "accepted"  # every row is committed
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"  # the import stopped half-way and was never accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """A file of jobs. `columns` are the input's, in order; `total` counts its rows."""

    id: str
    model: str
    filename: str
    columns: Sequence[str]
    total: int
    state: BulkState
    submitted_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkProgress:
    """How far a bulk is. `recent_*` count what succeeded in the last `window` seconds.

    `now`, `first_start` and `last_finish` are on the database's clock, so that their
    differences are true durations.
    """

    counts: Mapping[State, int]
    now: float
    window: float
    recent_rows: int
    recent_tokens: int
    first_start: float | None
    last_finish: float | None
