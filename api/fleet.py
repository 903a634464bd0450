"""The workers, what they are to serve, and why."""

from __future__ import annotations

from flask import Response

from api.fleet_documents import waiting, worker_document
from api.fleet_schemas import AssignmentList, DecisionsQuery, WorkerList
from api.rendering import json_response, timestamp
from nexus_jobs.bootstrap import Services


def workers(services: Services) -> Response:
    reports = services.view.workers()
    served = {name for worker in reports for name in worker.models}
    document: WorkerList = {
        "object": "list",
        "data": [worker_document(worker) for worker in reports],
        "waiting": waiting(services, sorted(served)),
    }
    return json_response(document)


def assignments(services: Services, query: DecisionsQuery) -> Response:
    schedule = services.schedule
    document: AssignmentList = {
        "object": "list",
        "data": [
            {"worker": one.worker, "model": one.model, "since": timestamp(one.since)}
            for one in schedule.assignments()
        ],
        "decisions": [
            {
                "at": timestamp(one.at),
                "action": one.action,
                "model": one.model,
                "worker": one.worker,
                "reason": one.reason,
            }
            for one in schedule.decisions(query.decisions)
        ],
        "recommendations": [
            {"model": one.model, "replicas": one.replicas, "reason": one.reason}
            for one in schedule.recommendations()
        ],
    }
    return json_response(document)
