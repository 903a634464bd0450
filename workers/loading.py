"""Brings a model into memory, again and again until that succeeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from nexus_jobs.engine import Engine
from nexus_jobs.errors import ModelUnavailable, NexusError
from nexus_jobs.execution import warm_up
from nexus_jobs.fleet import Measured, ModelState
from nexus_jobs.models import ModelConfig
from workers import memory

log = structlog.get_logger(__name__)

RELOAD_SECONDS: Final = 15.0
"""How long to wait before loading is tried again after it failed; doubled each time."""
REBUILD_SECONDS: Final = 1.0
"""The same after an engine that did not live for `YOUNG_SECONDS`: shorter, since a prompt that
kills it must not keep the others waiting.
"""
YOUNG_SECONDS: Final = 15.0
LONGEST_RELOAD_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that is ready, and what it took."""

    engine: Engine
    measured: Measured
    healthy_at: float | None
    """When it was warmed up, in seconds since the epoch."""

    @property
    def memory_mb(self) -> float | None:
        """What it holds now, as far as that can be told."""
        if self.engine.pid is None:
            return self.measured.memory_mb
        return memory.resident(self.engine.pid)


class Become(Protocol):
    """Takes note of the state of a model."""

    def __call__(self, state: ModelState, reason: str | None = None) -> None: ...


class Loader:
    """Loads one model; `become` hears how that goes."""

    def __init__(
        self,
        model: ModelConfig,
        *,
        build: Callable[[ModelConfig], Engine],
        stopping: threading.Event,
        become: Become,
    ) -> None:
        self._model = model
        self._build = build
        self._stopping = stopping
        self._become = become
        self._rest = 0.0
        """Seconds to wait before the next try."""
        self._loaded_at = 0.0

    def load(self) -> Loaded | None:
        """The engine when it is warm; None if `stopping` was set before."""
        while not self._stopping.wait(self._rest):
            self._become(ModelState.LOADING)
            try:
                loaded = self._try()
            except Exception as error:  # what a library makes of a broken file is not foreseen
                log.error(
                    "model.failed",
                    model=self._model.name,
                    reason=_reason(error),
                    exc_info=not isinstance(error, NexusError),
                )
                self._fail(_reason(error), RELOAD_SECONDS)
            else:
                self._loaded_at = time.monotonic()
                return loaded
        return None

    def died(self, reason: str) -> None:
        """The engine is gone that was loaded last; `load` is to bring another."""
        if time.monotonic() - self._loaded_at < YOUNG_SECONDS:
            self._fail(reason, REBUILD_SECONDS)
        else:
            self._rest = 0.0
            self._become(ModelState.LOADING, reason)

    def _fail(self, reason: str, first_rest: float) -> None:
        self._rest = min(max(2 * self._rest, first_rest), LONGEST_RELOAD_SECONDS)
        self._become(ModelState.FAILED, reason)

    def _try(self) -> Loaded:
        started, before = time.monotonic(), memory.resident() or 0.0
        engine = self._build(self._model)
        healthy_at = None
        try:
            if self._model.warmup:
                self._become(ModelState.WARMING)
                warm_up(engine)
                healthy_at = time.time()
        except BaseException:
            engine.close()
            raise
        return Loaded(
            engine,
            Measured(load_seconds=time.monotonic() - started, memory_mb=_held(engine, before)),
            healthy_at,
        )


def _held(engine: Engine, before: float) -> float:
    """The memory of the engine's own process, or by how much ours has grown."""
    held = memory.resident(engine.pid)
    if held is None:
        raise ModelUnavailable("the engine's process died when it was warm")
    return held if engine.pid is not None else max(0.0, held - before)


def _reason(error: Exception) -> str:
    if isinstance(error, NexusError):
        return str(error)
    return f"its files may be damaged, pull it again: {type(error).__name__}: {error}"
