"""The registered models and how they fare on the workers that are alive."""

from __future__ import annotations

from collections.abc import Sequence

from flask import Response

from api.rendering import json_response
from api.schemas import ModelDocument, ModelList
from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import ModelState, ServedModel
from nexus_jobs.models import ModelConfig
from nexus_jobs.ports import FleetStore

WORKER_MAX_AGE = 15.0
"""Seconds after which a worker that has not reported counts as gone."""


def listing(services: Services) -> Response:
    document: ModelList = {"object": "list", "data": model_documents(services.fleet)}
    return json_response(document)


def model_documents(fleet: FleetStore) -> list[ModelDocument]:
    workers = fleet.workers(max_age=WORKER_MAX_AGE)
    return [
        _document(model, [w.models[model.name] for w in workers if model.name in w.models])
        for model in fleet.models()
    ]


def _document(model: ModelConfig, served: Sequence[ServedModel]) -> ModelDocument:
    by_state = {one.state: one for one in served}
    document: ModelDocument = {
        "name": model.name,
        "object": "model",
        "type": model.type,
        "engine": None,
        "state": "unserved",
        "reason": None,
        "workers": sum(one.state is ModelState.READY for one in served),
        "max_batch_size": model.max_batch_size,
        "max_sequence_length": model.max_sequence_length,
    }
    if ready := by_state.get(ModelState.READY):
        return {**document, "state": "ready", "engine": ready.engine}
    if loading := by_state.get(ModelState.LOADING):
        return {**document, "state": "loading", "engine": loading.engine}
    if failed := by_state.get(ModelState.FAILED):
        return {**document, "state": "failed", "engine": failed.engine, "reason": failed.reason}
    return document
