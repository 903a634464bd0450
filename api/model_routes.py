"""Routes: public names that stand for one or more models."""

from __future__ import annotations

from flask import Response
from pydantic import BaseModel, Field

from api.rendering import json_response
from api.schemas import RoutedModel, RouteDocument, RouteList
from nexus_jobs.bootstrap import Services
from nexus_jobs.models import MODEL_NAME
from nexus_jobs.route import Route, RouteConfig
from nexus_jobs.router import Standing
from nexus_jobs.submission import parse_text


class _Name(BaseModel):
    name: str = Field(pattern=MODEL_NAME)


def listing(services: Services) -> Response:
    routes = services.routes.all()
    document: RouteList = {"object": "list", "data": [_document(services, r) for r in routes]}
    return json_response(document)


def show(services: Services, name: str) -> Response:
    return json_response(_document(services, services.routes.get(name)))


def put(services: Services, name: str, body: RouteConfig) -> Response:
    named = parse_text(_Name, {"name": name})
    route = Route(name=named.name, **body.model_dump(exclude_unset=True))
    return json_response(_document(services, services.routes.put(route)))


def remove(services: Services, name: str) -> Response:
    return json_response(_document(services, services.routes.remove(name)))


def _document(services: Services, route: Route) -> RouteDocument:
    shadow = route.shadow
    standings = services.routes.standings(route).items()
    return {
        "name": route.name,
        "object": "route",
        "algorithm": route.algorithm,
        "failure_threshold": route.failure_threshold,
        "open_seconds": route.open_seconds,
        "targets": [{"model": one.model, "weight": one.weight} for one in route.targets],
        "fallback": route.fallback,
        "otherwise": route.otherwise,
        "shadow": {"model": shadow.model, "percent": shadow.percent} if shadow else None,
        "models": [_standing(model, standing) for model, standing in standings],
    }


def _standing(model: str, standing: Standing) -> RoutedModel:
    state = standing.state
    return {
        "model": model,
        "available": state.reachable,
        "breaker": standing.breaker,
        "failures": state.health.failures,
        "outstanding": state.outstanding,
        "latency_ms": round(1000 * state.latency, 3) if state.latency else None,
        "chosen": standing.chosen,
    }
