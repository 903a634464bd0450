"""What a route is: a public model name that stands for one or more models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field

from nexus_jobs.errors import ConfigError, Problem
from nexus_jobs.models import ModelConfig, Named, Section, load_entries
from nexus_jobs.spelling import did_you_mean


class Algorithm(StrEnum):
    """How a route chooses among the targets that are well; all but `round_robin` heed weights."""

    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    LEAST_CONNECTIONS = "least_connections"
    LEAST_LATENCY = "least_latency"
    LEAST_BACKLOG_TOKENS = "least_backlog_tokens"
    CONSISTENT_HASH = "consistent_hash"


class Target(Section):
    """A model that a route sends requests to."""

    model: str
    weight: float = Field(1.0, ge=1e-6)
    """Its share, next to the weights of the others."""


class Shadow(Section):
    """A model that runs copies of requests, whose answers nobody gets."""

    model: str
    percent: float = Field(ge=0, le=100)
    """How many of a hundred requests are copied."""


class RouteConfig(Section):
    """All of a route but its name. What is left out of the first three `load_balancer` decides."""

    algorithm: Algorithm = Algorithm.LEAST_CONNECTIONS
    failure_threshold: int = Field(3, ge=1)
    """After so many jobs in a row that a target could not run, it gets no more."""
    open_seconds: float = Field(30.0, gt=0)
    """After so long without any it gets a single one, to see whether it is well again."""
    targets: list[Target] = Field(min_length=1)
    fallback: list[str] = []
    """Models to take, in this order, while no target can be had."""
    otherwise: Literal["queue", "refuse"] = "queue"
    """What to do without any fallback either: wait for the first target, or answer 503."""
    shadow: Shadow | None = None

    @property
    def models(self) -> list[str]:
        """All that may run a request, the targets first."""
        return [*(target.model for target in self.targets), *self.fallback]

    def mentions(self, model: str) -> bool:
        """Whether requests, or copies of them, may go to that model."""
        return model in self.models or (self.shadow is not None and self.shadow.model == model)


class Route(RouteConfig, Named):
    """A public name for models, one of which is chosen for each request."""


def problems(route: Route, models: Collection[str]) -> list[Problem]:
    """All that is wrong with a route where these are the models."""
    found = []
    if route.name in models:
        found.append(
            Problem("name", "name_taken", f"{route.name!r} is a model; a route needs another name")
        )
    seen: set[str] = set()
    for field, model in _mentions(route):
        if model not in models:
            message = (
                f"`{field}`: there is no model {model!r}{did_you_mean(model, models)}"
                f" (there are: {', '.join(sorted(models)) or 'none'})"
            )
            found.append(Problem(field, "unknown_model", message))
        if model in seen and field != "shadow.model":
            message = f"`{field}`: {model!r} stands there before; name each model once"
            found.append(Problem(field, "duplicate_model", message))
        seen.add(model)
    return found


def load_routes(path: Path, models: Sequence[ModelConfig]) -> list[Route]:
    """Read the routes that a YAML file may list under `routes:`, next to these models.

    Raises:
        ConfigError: one of them cannot be used, or a name stands twice.
    """
    routes = load_entries(path, "routes", Route, default=[])
    names = [model.name for model in models]
    wrong = [
        f"{path}: route {route.name}: {problem.message}"
        for route in routes
        for problem in problems(route, names)
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return routes


def _mentions(route: Route) -> Iterator[tuple[str, str]]:
    """Every model that a route names, behind the field where it does."""
    targets = ((f"targets.{i}.model", target.model) for i, target in enumerate(route.targets))
    fallback = ((f"fallback.{i}", model) for i, model in enumerate(route.fallback))
    shadow = [("shadow.model", route.shadow.model)] if route.shadow else []
    return chain(targets, fallback, shadow)
