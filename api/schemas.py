"""The shapes of requests and answers that only HTTP knows; the OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from nexus_jobs.bulk_service import Standing
from nexus_jobs.explaining import Reason
from nexus_jobs.job import Cached, FinishReason
from nexus_jobs.route import Algorithm
from nexus_jobs.routing import Breaker
from nexus_jobs.states import State
from nexus_jobs.submission import Generation

LONGEST_WAIT = 60
"""Seconds that a request may hold on for its job."""

described = with_config(ConfigDict(use_attribute_docstrings=True))

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


class Query(BaseModel):
    """No query parameters."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class WaitQuery(Query):
    wait: float = Field(0.0, ge=0, le=LONGEST_WAIT, allow_inf_nan=False)
    """Seconds to hold on until the job has ended."""


class JobQuery(Query):
    state: State | None = None
    model: str | None = None
    route: str | None = None
    """Only jobs that were sent to this route."""
    bulk: UUID | None = None
    shadow: Literal["no", "yes"] = "no"
    """`yes`: the copies that routes made for their shadows, and nothing else."""
    limit: int = Field(50, ge=1, le=200)
    cursor: UUID | None = None
    """The `next_cursor` of the page before."""


def _with_file(schema: dict[str, Any]) -> None:
    file = {"type": "string", "format": "binary", "description": "A CSV file with a header."}
    schema["properties"] = {"file": file, **schema["properties"]}
    schema["required"] = ["file", *schema["required"]]


class BulkForm(Generation):
    """The fields of `POST /bulk`; those of a generation are defaults that a row may override."""

    model_config = ConfigDict(json_schema_extra=_with_file)

    model: str
    """The name of a registered model."""
    prompt_column: str | None = None
    """The column that holds the prompts."""


@described
class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@described
class ResultDocument(TypedDict):
    text: str
    finish_reason: FinishReason
    usage: Usage


@described
class ErrorDocument(TypedDict):
    """Why the job, or the last attempt at it, did not succeed."""

    code: str
    message: str
    trace: str | None
    """The errors and the places in the code that led to it."""


@described
class Timings(TypedDict):
    """Milliseconds; null where unknown."""

    queue_ms: float | None
    """From submission to the last start."""
    prefill_ms: float | None
    decode_ms: float | None
    total_ms: float | None
    """From submission to the end."""


@described
class WaitDocument(TypedDict):
    """What a queued job waits for."""

    position: int
    """How many of its model's jobs come before it, counted up to 10,000."""
    reason: Reason
    detail: str
    estimated_start_seconds: float | None
    """From now, by the rate at which workers take jobs at the moment; null if nobody can tell."""


@described
class JobDocument(TypedDict):
    id: Id
    object: Literal["job"]
    model: str
    state: State
    priority: int
    attempt: int
    submitted_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    result: ResultDocument | None
    error: ErrorDocument | None
    cached: Cached
    """The cache level that answered, or `no`."""
    timings: Timings
    waiting: WaitDocument | None
    """Told of a queued job that is asked for by itself."""
    worker: str | None
    bulk_id: Id | None
    route: str | None
    """The route that the job was sent to, which has chosen its model."""
    shadow_of: Id | None
    """The job that this is a copy of."""
    metadata: dict[str, Any] | None


@described
class JobPage(TypedDict):
    """Jobs, newest first."""

    object: Literal["list"]
    data: list[JobDocument]
    next_cursor: Id | None
    """Give it as `cursor` for the page after this one; null on the last."""


@described
class BatchDocument(TypedDict):
    """One job for each prompt, in the order of the prompts."""

    object: Literal["list"]
    bulk_id: Id
    data: list[JobDocument]


@described
class BulkDocument(TypedDict):
    id: Id
    object: Literal["bulk"]
    state: Standing
    model: str
    filename: str
    total: int
    """Rows in the file."""
    counts: dict[str, int]
    """Rows in each state."""
    rows_per_second: float
    tokens_per_second: float
    eta_seconds: float | None
    submitted_at: Timestamp
    finished_at: Timestamp | None


@described
class RoutedModel(TypedDict):
    """How a model of a route stands, as seen by the process that answers."""

    model: str
    available: bool
    """Some live worker has it ready, or is loading it."""
    breaker: Breaker
    failures: int
    """Since the last success."""
    outstanding: int
    """Jobs that this process has sent and that have not ended."""
    latency_ms: float | None
    """A moving average that follows peaks, from submission to the end; null: not known yet."""
    chosen: int
    """How many requests this process has sent to it by this route."""


@described
class TargetDocument(TypedDict):
    model: str
    weight: float


@described
class ShadowDocument(TypedDict):
    model: str
    percent: float


@described
class RouteDocument(TypedDict):
    name: str
    object: Literal["route"]
    algorithm: Algorithm
    failure_threshold: int
    open_seconds: float
    targets: list[TargetDocument]
    fallback: list[str]
    otherwise: Literal["queue", "refuse"]
    shadow: ShadowDocument | None
    models: list[RoutedModel]
    """The targets, then the fallback models."""


class RouteList(TypedDict):
    object: Literal["list"]
    data: list[RouteDocument]


@described
class ProblemDetail(TypedDict):
    field: str | None
    """The part of the request that is wrong; null is the whole."""
    code: str
    message: str
    """What is wrong and what would be right."""


@described
class ProblemDocument(TypedDict):
    """RFC 9457, with a `code` that never changes and all that is wrong in `errors`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemDetail]
