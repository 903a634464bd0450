"""What is kept of models, workers, routes, and who serves what."""

from __future__ import annotations

from collections.abc import Sequence
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
from nexus_jobs.models import ModelConfig
from nexus_jobs.route import Route


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


class LiveLoads(Protocol):
    """The latest reports of the workers, some seconds old at most; nothing depends on them."""

    def put(self, report: WorkerReport) -> None:
        """Publish a worker's report for a few seconds; a failure is logged and ignored."""

    def drop(self, worker: str) -> None:
        """The worker has stopped."""

    def all(self) -> dict[str, WorkerReport]:
        """By worker; empty if they cannot be read."""
