"""What the API does with models: register and remove them, and have them loaded and unloaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from nexus_jobs.catalog import Catalog
from nexus_jobs.errors import (
    ConfigError,
    Conflict,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    WeightsRefused,
    WrongRevision,
)
from nexus_jobs.fleet import Origin, RegisteredModel, Wanted
from nexus_jobs.fleet_view import Availability, FleetView, status_of
from nexus_jobs.models import ModelConfig, origin
from nexus_jobs.ports import FleetStore, JobStore, RouteStore
from nexus_jobs.spelling import did_you_mean
from nexus_jobs.states import State

WAITERS: Final = 8
"""Requests that may wait for models at the same time; others are answered at once."""
POLL_SECONDS: Final = 0.5

_SETTLED: Final = {
    Wanted.LOADED: {Availability.READY, Availability.FAILED},
    Wanted.UNLOADED: {Availability.UNLOADED},
    Wanted.AUTO: set(Availability),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """`new` if the name was not registered before; `unchecked` is why the weights could not be
    checked here, in which case the workers that load them do it."""

    model: RegisteredModel
    new: bool
    unchecked: str | None


class Registry:
    """Models by name.

    `check` looks at a model's files and raises what `model_files.check` does; `stopping` tells
    when nobody may be kept waiting any more. A model that another server runs can only be
    registered if that server is one of `upstreams`, which are URLs.
    """

    def __init__(
        self,
        *,
        fleet: FleetStore,
        jobs: JobStore,
        routes: RouteStore,
        catalog: Catalog,
        view: FleetView,
        check: Callable[[ModelConfig], None],
        stopping: Callable[[], bool],
        upstreams: Collection[str] = (),
    ) -> None:
        self._fleet = fleet
        self._jobs = jobs
        self._routes = routes
        self._catalog = catalog
        self._view = view
        self._check = check
        self._stopping = stopping
        self._upstreams = {origin(url) for url in upstreams}
        self._places = threading.BoundedSemaphore(WAITERS)

    def get(self, name: str) -> RegisteredModel:
        """The model of that name.

        Raises:
            NotFound: there is none.
        """
        models = {model.name: model for model in self._fleet.registered()}
        if name not in models:
            raise NotFound(f"there is no model {name!r}{did_you_mean(name, models)}")
        return models[name]

    def register(self, config: ModelConfig) -> Registration:
        """Add a model, or a new version of it if its config has changed.

        Raises:
            InvalidRequest: it can never be loaded like this.
            Conflict: the models file says something else of this model, or a route has its name.
        """
        if any(route.name == config.name for route in self._routes.routes()):
            raise Conflict(f"{config.name!r} is a route; a model needs another name")
        unchecked = self._unchecked(config)
        known = {model.name: model for model in self._fleet.registered()}.get(config.name)
        if known is None or known.origin is Origin.API:
            self._check_upstream(config)
            model = self._fleet.register(config)
            self._catalog.refresh()
        elif known.config == config:
            model = known
        else:
            raise Conflict(f"model {config.name!r} stands in the models file; change it there")
        return Registration(model=model, new=known is None, unchecked=unchecked)

    def _check_upstream(self, config: ModelConfig) -> None:
        """Whoever may call the API must not have workers call whatever they please."""
        if config.type == "upstream" and origin(config.path) not in self._upstreams:
            raise InvalidRequest.of(
                "upstream_not_allowed",
                f"this installation lets nobody register {config.path}; name its "
                f"{origin(config.path)} in the setting server.upstreams, or put the model into "
                "the models file",
                field="path",
            )

    def _unchecked(self, config: ModelConfig) -> str | None:
        try:
            self._check(config)
        except (ConfigError, WeightsRefused) as error:
            field = "revision" if isinstance(error, WrongRevision) else "path"
            raise InvalidRequest.of(error.code, str(error), field=field) from error
        except ModelUnavailable as error:
            return str(error)
        return None

    def remove(self, name: str) -> None:
        """Take a model off the registry.

        Raises:
            NotFound: there is none.
            Conflict: the models file or a route names it, or jobs of it have not ended.
        """
        if self.get(name).origin is Origin.FILE:
            raise Conflict(
                f"model {name!r} stands in the models file; take it out there and start again, "
                "or run: nexus migrate"
            )
        routes = [route.name for route in self._routes.routes() if route.mentions(name)]
        if routes:
            raise Conflict(
                f"model {name!r} is named by: {', '.join(routes)}; change or remove these routes "
                "first"
            )
        counts = self._jobs.counts()
        queued, running = (counts.get((name, s), 0) for s in (State.QUEUED, State.RUNNING))
        if queued or running:
            raise Conflict(
                f"model {name!r} has {queued} queued and {running} running jobs; "
                f"let them end, or cancel them: nexus jobs cancel --model {name}"
            )
        self._fleet.remove_model(name)
        self._catalog.refresh()

    def want(self, name: str, wanted: Wanted, seconds: float = 0.0) -> RegisteredModel:
        """Say what is wanted of a model, and wait up to `seconds` until it is so, or has failed.

        Raises:
            NotFound: there is none.
        """
        model = self._fleet.want(name, wanted)
        if model is None:
            model = self.get(name)
        if seconds and self._places.acquire(blocking=False):
            try:
                self._wait(model, time.monotonic() + seconds)
            finally:
                self._places.release()
        return model

    def _wait(self, model: RegisteredModel, until: float) -> None:
        while (left := until - time.monotonic()) > 0 and not self._stopping():
            if status_of(model, self._view.workers()).state in _SETTLED[model.wanted]:
                return
            time.sleep(min(POLL_SECONDS, left))
