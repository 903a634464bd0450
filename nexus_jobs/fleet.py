"""What a worker says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ModelState(StrEnum):
    """Where one model stands on one worker."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model on a worker: its state, the engine that runs it, and the reason of a failure."""

    state: ModelState
    engine: str | None = None
    reason: str | None = None
    running: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """One worker process; `seen_at` is on the database's clock and set by the store."""

    id: str
    host: str
    pid: int
    device: str
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    seen_at: float = 0.0
