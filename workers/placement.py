"""Which models this worker holds, brought in line with those that it is to serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping

from nexus_jobs.fleet import RegisteredModel
from workers.runner import ModelRunner


class Placement:
    """Starts runners and drains them. The methods may be called from any thread.

    `runners` is replaced and never changed, so that everybody may read it.
    """

    def __init__(
        self,
        start: Callable[[RegisteredModel], ModelRunner],
        *,
        grace_seconds: float,
        memory_mb: float,
    ) -> None:
        self.runners: Mapping[str, ModelRunner] = {}
        self._start = start
        self._grace_seconds = grace_seconds
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._closing = False

    def converge(self, wanted: Collection[RegisteredModel]) -> None:
        """Take a step towards the wanted models in their wanted versions; does not block.

        A model that comes back while it drains is loaded when it is gone.
        """
        with self._lock:
            if self._closing:
                return
            runners = {name: one for name, one in self.runners.items() if not one.gone}
            versions = {model.name: model.version for model in wanted}
            self._drain([one for name, one in runners.items() if versions.get(name) != one.version])
            for model in wanted:
                if model.name not in runners and self._has_room(runners, model):
                    runners[model.name] = self._start(model)
            self.runners = runners

    def drain(self) -> None:
        """Let go of all models, for good."""
        with self._lock:
            self._closing = True
            self._drain(self.runners.values())

    def join(self) -> None:
        """Wait until all are gone; call `drain` first."""
        for runner in self.runners.values():
            runner.join()

    def _drain(self, runners: Collection[ModelRunner]) -> None:
        deadline = time.monotonic() + self._grace_seconds
        for runner in runners:
            runner.drain(deadline)

    def _has_room(self, runners: Mapping[str, ModelRunner], model: RegisteredModel) -> bool:
        """Whether it can be loaded before those that drain have given their memory back."""
        if not any(runner.draining for runner in runners.values()):
            return True
        if model.measured is None:
            return False
        held = sum(runner.report().memory_mb or 0.0 for runner in runners.values())
        return held + model.measured.memory_mb <= self._memory_mb
