"""The models and routes that there are, as an API process knows them."""

from __future__ import annotations

import time
from typing import Final

from nexus_jobs.config import LoadBalancerSettings
from nexus_jobs.errors import InvalidRequest
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import FleetStore, RouteStore
from nexus_jobs.route import Route
from nexus_jobs.spelling import did_you_mean

CATALOG_SECONDS: Final = 2.0
"""How long a change of what is known may take to reach an API process."""


class Catalog:
    """The registered models and routes, read again from the registry now and then.

    `defaults` stand in for what a route does not say.
    """

    def __init__(
        self, fleet: FleetStore, routes: RouteStore, defaults: LoadBalancerSettings
    ) -> None:
        self._fleet = fleet
        self._route_store = routes
        self._defaults = defaults
        self._models: dict[str, ModelConfig] = {}
        self._routes: dict[str, Route] = {}
        self._fresh_until = 0.0

    def models(self) -> dict[str, ModelConfig]:
        self._keep_fresh()
        return self._models

    def routes(self) -> dict[str, Route]:
        self._keep_fresh()
        return self._routes

    def model(self, name: str) -> ModelConfig:
        """The model of that name.

        Raises:
            InvalidRequest: there is none.
        """
        self.check_name(name)
        if name in self._models:
            return self._models[name]
        raise InvalidRequest.of("unknown_model", f"{name!r} is a route, not a model", field="model")

    def check_name(self, name: str) -> None:
        """See that there is a model or a route of that name.

        Raises:
            InvalidRequest: there is none; the message names the nearest and all others.
        """
        self._keep_fresh()
        if not self._knows(name):
            self.refresh()  # it may be a moment old
        if self._knows(name):
            return
        known = {"models": sorted(self._models), "routes": sorted(self._routes)}
        lists = [f"{kind}: {', '.join(names)}" for kind, names in known.items() if names]
        raise InvalidRequest.of(
            "unknown_model",
            f"there is no model {name!r}{did_you_mean(name, [*self._models, *self._routes])}"
            f" ({'; '.join(lists) or 'there are none'})",
            field="model",
        )

    def refresh(self) -> None:
        """Read the registry again."""
        self._models = {model.name: model for model in self._fleet.models()}
        routes = map(self._defaults.complete, self._route_store.routes())
        self._routes = {route.name: route for route in routes}
        self._fresh_until = time.monotonic() + CATALOG_SECONDS

    def _keep_fresh(self) -> None:
        if time.monotonic() >= self._fresh_until:
            self.refresh()

    def _knows(self, name: str) -> bool:
        return name in self._models or name in self._routes
