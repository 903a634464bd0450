"""The shapes of what is told of models, workers and their health."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from api.schemas import LONGEST_WAIT, Query, Timestamp, described
from nexus_jobs.fleet import Action, ModelState, Origin, Wanted
from nexus_jobs.fleet_view import Availability


class SettleQuery(Query):
    wait: float = Field(0.0, ge=0, le=LONGEST_WAIT, allow_inf_nan=False)
    """Seconds to hold on until the model stands as wanted, or has failed."""


class DecisionsQuery(Query):
    decisions: int = Field(50, ge=0, le=1000)
    """How many of the latest decisions to give."""


@described
class PlacementDocument(TypedDict):
    """One model on one worker."""

    worker: str
    model: str
    state: ModelState
    reason: str | None
    """Why it failed."""
    engine: str | None
    version: int
    slots: int
    running: int
    """Slots that are used."""
    free: int
    tokens_per_second: float
    step_ms: float
    queue_seconds: float
    """How long the job that it claimed last had waited."""
    ended: int
    """Jobs since it was loaded."""
    failed: int
    """Attempts since then that met an error of the engine."""
    memory_mb: float | None
    healthy_at: Timestamp | None
    """When it last generated something."""


@described
class ModelDocument(TypedDict):
    name: str
    object: Literal["model"]
    type: str
    """As configured."""
    engine: str | None
    """What runs it."""
    state: Availability
    """The best that any live worker says of it; if none has it, `unloaded` where that is wanted
    and else `registered`.
    """
    reason: str | None
    """Why it failed."""
    workers: int
    """Live workers on which it is ready."""
    max_batch_size: int
    max_sequence_length: int
    version: int
    """Each change of its config makes a new one."""
    origin: Origin
    """Whether the models file names it."""
    wanted: Wanted
    """What people want of it; `auto` leaves it to the scheduler."""
    load_seconds: float | None
    """What its last load took; null if it was not loaded in this version."""
    memory_mb: float | None
    """What that load took of the worker's memory."""
    placements: list[PlacementDocument]


@described
class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelDocument]


@described
class VersionDocument(TypedDict):
    version: int
    registered_at: Timestamp


@described
class ModelDetail(ModelDocument):
    config: dict[str, Any]
    """As in the body of `POST /models`, with all defaults."""
    versions: list[VersionDocument]
    """Oldest first."""
    waiting: int
    """Jobs that could start now, counted up to 1000."""


@described
class RegistrationDocument(ModelDetail):
    unchecked: str | None
    """Why its files could not be checked where the API runs: they are not there. The workers check
    them as they load them. Null if they are well, or if the model needs none.
    """


@described
class WorkerDocument(TypedDict):
    id: str
    object: Literal["worker"]
    host: str
    pid: int
    device: str
    fixed: bool
    """Whether it keeps the models it was started with, whatever the scheduler thinks."""
    draining: bool
    max_models: int | None
    memory_mb: float | None
    """What its models may hold together; null is no bound."""
    gpu_memory_mb: float | None
    """What is in use on its device."""
    seen_at: Timestamp
    models: list[PlacementDocument]


@described
class WorkerList(TypedDict):
    object: Literal["list"]
    data: list[WorkerDocument]
    waiting: dict[str, int]
    """For each model with jobs that could start now, how many, counted up to 1000."""


@described
class AssignmentDocument(TypedDict):
    worker: str
    model: str
    since: Timestamp


@described
class DecisionDocument(TypedDict):
    at: Timestamp
    action: Action
    model: str
    worker: str
    reason: str


@described
class RecommendationDocument(TypedDict):
    model: str
    replicas: int
    """Workers that it should have, as far as its load goes."""
    reason: str


@described
class AssignmentList(TypedDict):
    object: Literal["list"]
    data: list[AssignmentDocument]
    decisions: list[DecisionDocument]
    """The latest, newest first."""
    recommendations: list[RecommendationDocument]


class LiveDocument(TypedDict):
    status: Literal["ok"]


@described
class ReadyDocument(TypedDict):
    status: Literal["ok", "degraded", "unavailable", "stopping"]
    """`unavailable` without the database; `degraded` if jobs are accepted but may start late;
    `stopping` when this process was asked to end.
    """
    checks: dict[str, str | None]
    """What is wrong with each thing depended on; null is well."""


class HealthDocument(ReadyDocument):
    version: str
    models: list[ModelDocument]


@described
class ModelHealth(TypedDict):
    name: str
    state: Availability
    reason: str | None
    """Why it failed."""
    healthy_at: Timestamp | None
    """When it last generated something, on whichever worker."""
    workers: int
    """Live workers on which it is ready."""


@described
class ModelsHealth(TypedDict):
    status: Literal["ok", "failed"]
    """`failed` if there is a model that failed on every worker that has it."""
    data: list[ModelHealth]
