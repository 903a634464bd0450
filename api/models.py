"""The registered models: add, remove, load and unload them, and tell how they fare."""

from __future__ import annotations

from flask import Response, url_for

from api.fleet_documents import model_detail, model_documents
from api.fleet_schemas import ModelList, ModelsHealth, RegistrationDocument, SettleQuery
from api.rendering import json_response, timestamp_or_none
from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import Wanted
from nexus_jobs.fleet_view import Availability, status_of
from nexus_jobs.models import ModelConfig


def listing(services: Services) -> Response:
    document: ModelList = {"object": "list", "data": model_documents(services)}
    return json_response(document)


def show(services: Services, name: str) -> Response:
    return json_response(model_detail(services, services.models.get(name)))


def register(services: Services, body: ModelConfig) -> Response:
    made = services.models.register(body)
    document: RegistrationDocument = {
        **model_detail(services, made.model),
        "unchecked": made.unchecked,
    }
    location = {"Location": url_for("show_model", name=made.model.name)}
    return json_response(document, 201 if made.new else 200, location)


def remove(services: Services, name: str) -> Response:
    services.models.remove(name)
    return Response(status=204)


def load(services: Services, query: SettleQuery, name: str) -> Response:
    return _want(services, name, Wanted.LOADED, query)


def unload(services: Services, query: SettleQuery, name: str) -> Response:
    return _want(services, name, Wanted.UNLOADED, query)


def leave_to_scheduler(services: Services, query: SettleQuery, name: str) -> Response:
    return _want(services, name, Wanted.AUTO, query)


def _want(services: Services, name: str, wanted: Wanted, query: SettleQuery) -> Response:
    model = services.models.want(name, wanted, query.wait)
    return json_response(model_detail(services, model), 202)


def health(services: Services) -> Response:
    workers = services.view.workers()
    statuses = {one.name: status_of(one, workers) for one in services.fleet.registered()}
    failed = any(one.state is Availability.FAILED for one in statuses.values())
    document: ModelsHealth = {
        "status": "failed" if failed else "ok",
        "data": [
            {
                "name": name,
                "state": status.state,
                "reason": status.reason,
                "healthy_at": timestamp_or_none(status.healthy_at),
                "workers": status.ready,
            }
            for name, status in statuses.items()
        ],
    }
    return json_response(document, 503 if failed else 200)
