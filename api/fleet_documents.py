"""Turns what is known of models and workers into the JSON that clients see."""

from __future__ import annotations

from collections.abc import Sequence

from api.fleet_schemas import ModelDetail, ModelDocument, PlacementDocument, WorkerDocument
from api.rendering import timestamp, timestamp_or_none
from nexus_jobs.bootstrap import Services
from nexus_jobs.fleet import RegisteredModel, ServedModel, WorkerReport
from nexus_jobs.fleet_view import ModelStatus, status_of

COUNT_UP_TO = 1000
"""Counting a long queue would take longer than anybody needs to know it exactly."""


def model_documents(services: Services) -> list[ModelDocument]:
    workers = services.view.workers()
    return [_model(model, status_of(model, workers)) for model in services.fleet.registered()]


def model_detail(services: Services, model: RegisteredModel) -> ModelDetail:
    versions = services.fleet.versions(model.name)
    return {
        **_model(model, status_of(model, services.view.workers())),
        "config": model.config.model_dump(mode="json"),
        "versions": [
            {"version": number, "registered_at": timestamp(at)} for number, at, _ in versions
        ],
        "waiting": waiting(services, [model.name]).get(model.name, 0),
    }


def waiting(services: Services, models: Sequence[str]) -> dict[str, int]:
    """How many jobs could start now, for those of the models that have any."""
    return services.platform.store.backlog(models, COUNT_UP_TO)


def worker_document(worker: WorkerReport) -> WorkerDocument:
    return {
        "id": worker.id,
        "object": "worker",
        "host": worker.host,
        "pid": worker.pid,
        "device": worker.device,
        "fixed": worker.fixed,
        "draining": worker.draining,
        "max_models": worker.max_models,
        "memory_mb": worker.memory_mb,
        "gpu_memory_mb": worker.gpu_memory_mb,
        "seen_at": timestamp(worker.seen_at),
        "models": [_placement(worker.id, name, one) for name, one in sorted(worker.models.items())],
    }


def _model(model: RegisteredModel, status: ModelStatus) -> ModelDocument:
    measured = model.measured
    return {
        "name": model.name,
        "object": "model",
        "type": model.config.type,
        "engine": status.engine,
        "state": status.state,
        "reason": status.reason,
        "workers": status.ready,
        "max_batch_size": model.config.max_batch_size,
        "max_sequence_length": model.config.max_sequence_length,
        "version": model.version,
        "origin": model.origin,
        "wanted": model.wanted,
        "load_seconds": measured.load_seconds if measured else None,
        "memory_mb": measured.memory_mb if measured else None,
        "placements": [
            _placement(worker, model.name, one) for worker, one in status.by_worker.items()
        ],
    }


def _placement(worker: str, model: str, served: ServedModel) -> PlacementDocument:
    return {
        "worker": worker,
        "model": model,
        "state": served.state,
        "reason": served.reason,
        "engine": served.engine,
        "version": served.version,
        "slots": served.slots,
        "running": served.running,
        "free": max(served.slots - served.running, 0),
        "tokens_per_second": round(served.activity.tokens_per_second, 3),
        "step_ms": round(served.activity.step_ms, 3),
        "queue_seconds": round(served.activity.queue_seconds, 3),
        "ended": served.activity.ended,
        "failed": served.activity.failed,
        "memory_mb": served.memory_mb,
        "healthy_at": timestamp_or_none(served.healthy_at),
    }
