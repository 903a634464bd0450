"""What operators and their probes ask: is it alive, is it ready, what does it measure."""

from __future__ import annotations

from importlib.metadata import version

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.fleet_documents import model_documents
from api.fleet_schemas import HealthDocument, LiveDocument, ReadyDocument
from api.rendering import json_response
from nexus_jobs.bootstrap import Services

VERSION = version("nexus-jobs")


def live(_services: Services) -> Response:
    document: LiveDocument = {"status": "ok"}
    return json_response(document)


def ready(services: Services) -> Response:
    document = _readiness(services)
    return json_response(document, _status_code(document))


def health(services: Services) -> Response:
    readiness = _readiness(services)
    reachable = readiness["status"] != "unavailable"
    document: HealthDocument = {
        **readiness,
        "version": VERSION,
        "models": model_documents(services) if reachable else [],
    }
    return json_response(document, _status_code(readiness))


def metrics(services: Services) -> Response:
    return Response(services.metrics.exposition(), content_type=CONTENT_TYPE_LATEST)


def _readiness(services: Services) -> ReadyDocument:
    checks = services.checks()
    if checks["database"] is not None:
        return {"status": "unavailable", "checks": checks}
    if services.watch.closed:
        return {"status": "stopping", "checks": checks}
    if any(reason is not None for reason in checks.values()):
        return {"status": "degraded", "checks": checks}
    return {"status": "ok", "checks": checks}


def _status_code(document: ReadyDocument) -> int:
    # Without Redis jobs are still accepted and found by polling, so only the database counts.
    return 503 if document["status"] in ("unavailable", "stopping") else 200
