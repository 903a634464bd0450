"""The fleet: which models are registered, what workers say of themselves, who serves what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from nexus_jobs.models import ModelConfig

LOAD_SECONDS: Final = 30.0
"""Assumed until a load has been measured; a few GB from a disk, and warm-up."""
TOKENS_PER_JOB: Final = 128.0
"""Assumed until a job has ended; what a job generates at most by default."""


class ModelState(StrEnum):
    """Where one model stands on one worker."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Wanted(StrEnum):
    """What people want of a registered model."""

    AUTO = "auto"
    """The scheduler loads and unloads it as there is work."""
    LOADED = "loaded"
    """It is never without a worker."""
    UNLOADED = "unloaded"
    """No worker holds it; its jobs wait."""


class Origin(StrEnum):
    """Where a model's registration comes from."""

    FILE = "file"
    API = "api"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What loading a model took when a worker last did it."""

    load_seconds: float
    memory_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredModel:
    """An entry of the registry; each change of its config makes a new version."""

    config: ModelConfig
    version: int = 1
    origin: Origin = Origin.FILE
    wanted: Wanted = Wanted.AUTO
    registered_at: float = 0.0
    measured: Measured | None = None

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def load_seconds(self) -> float:
        """How long a load will take, as far as is known."""
        return self.measured.load_seconds if self.measured else LOAD_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What a model did on a worker: sums since it was loaded, and rates of the last seconds."""

    ended: int = 0
    failed: int = 0
    """Attempts that met an error of the engine."""
    tokens: int = 0
    tokens_per_second: float = 0.0
    step_ms: float = 0.0
    queue_seconds: float = 0.0
    """How long the job that was claimed last had waited."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on a worker: its state, the engine that runs it, and the reason of a failure."""

    state: ModelState
    engine: str | None = None
    reason: str | None = None
    running: int = 0
    slots: int = 0
    version: int = 1
    memory_mb: float | None = None
    """What its engine holds, as far as that can be told."""
    healthy_at: float | None = None
    """When it last generated something, in seconds since the epoch."""
    activity: Activity = Activity()


def tokens_per_job(served: Iterable[ServedModel]) -> float:
    """The mean length of an answer, or a guess as long as none has ended."""
    activities = [one.activity for one in served]
    ended = sum(activity.ended for activity in activities)
    return sum(activity.tokens for activity in activities) / ended if ended else TOKENS_PER_JOB


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One worker process; `seen_at` is on the database's clock and set by the store."""

    id: str
    host: str
    pid: int
    device: str
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    fixed: bool = False
    """It serves the models that it was started with, whatever the scheduler thinks."""
    draining: bool = False
    max_models: int | None = None
    memory_mb: float | None = None
    """What its models may hold together; None is no bound."""
    gpu_memory_mb: float | None = None
    """What is in use on its device, where NVML tells."""
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A worker is to serve a model; `since` is on the database's clock and set by the store."""

    worker: str
    model: str
    since: float = 0.0


class Action(StrEnum):
    """What the scheduler decides for a model on a worker."""

    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A change of the assignments, and why; `at` is set by the store."""

    action: Action
    model: str
    worker: str
    reason: str
    at: float = 0.0


WHOLE_FLEET: Final = "*"
"""Stands for all models together, where a recommendation names a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """How many workers a model, or the whole fleet, should have for its load."""

    model: str
    replicas: int
    reason: str
