"""The table of all paths: the Flask routes and the OpenAPI document are both made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response
from pydantic import BaseModel

from api import bulk, jobs, model_routes, models, ops
from api.schemas import (
    BatchDocument,
    BulkDocument,
    BulkForm,
    HealthDocument,
    JobDocument,
    JobPage,
    JobQuery,
    LiveDocument,
    ModelList,
    Query,
    ReadyDocument,
    RouteDocument,
    RouteList,
    WaitQuery,
)
from nexus_jobs.route import RouteConfig
from nexus_jobs.submission import BatchSubmission, Changes, Submission

API = "/api/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path.

    `view` gets the services, the path's ids, and as `body` and `query` what was parsed to those
    models. `answers` gives for each status the shape of the JSON, or the media types of text.
    A POST that does not take an `Idempotency-Key` refuses one.
    """

    name: str
    method: str
    path: str
    view: Callable[..., Response]
    summary: str
    answers: Mapping[int, Any]
    body: type[BaseModel] | None = None
    body_required: bool = True
    form: type[BaseModel] | None = None
    query: type[Query] = Query
    prefers_wait: bool = False
    takes_key: bool = False


ROUTES = (
    Route(
        name="submit_job",
        method="POST",
        path=f"{API}/jobs",
        view=jobs.submit,
        summary="Submit a job; it is committed when the answer comes",
        body=Submission,
        takes_key=True,
        answers={202: JobDocument},
    ),
    Route(
        name="list_jobs",
        method="GET",
        path=f"{API}/jobs",
        view=jobs.listing,
        summary="List jobs, newest first",
        query=JobQuery,
        answers={200: JobPage},
    ),
    Route(
        name="show_job",
        method="GET",
        path=f"{API}/jobs/<uuid:job_id>",
        view=jobs.show,
        summary="A job, at once or when it has ended",
        query=WaitQuery,
        answers={200: JobDocument},
    ),
    Route(
        name="cancel_job",
        method="DELETE",
        path=f"{API}/jobs/<uuid:job_id>",
        view=jobs.cancel,
        summary="Cancel a job that has not ended",
        answers={200: JobDocument},
    ),
    Route(
        name="retry_job",
        method="POST",
        path=f"{API}/jobs/<uuid:job_id>/retry",
        view=jobs.retry,
        summary="Run a failed or dead job again, as it was or with changes",
        body=Changes,
        body_required=False,
        answers={202: JobDocument},
    ),
    Route(
        name="generate",
        method="POST",
        path=f"{API}/generate",
        view=jobs.generate,
        summary="Submit a job and wait for it: 200 if it ended, 202 if the wait was over first",
        body=Submission,
        prefers_wait=True,
        takes_key=True,
        answers={200: JobDocument, 202: JobDocument},
    ),
    Route(
        name="generate_batch",
        method="POST",
        path=f"{API}/generate/batch",
        view=jobs.generate_batch,
        summary="Submit several prompts as one bulk and wait for all of them",
        body=BatchSubmission,
        prefers_wait=True,
        answers={200: BatchDocument, 202: BatchDocument},
    ),
    Route(
        name="submit_bulk",
        method="POST",
        path=f"{API}/bulk",
        view=bulk.submit,
        summary="Submit a CSV file of prompts",
        form=BulkForm,
        answers={202: BulkDocument},
    ),
    Route(
        name="show_bulk",
        method="GET",
        path=f"{API}/bulk/<uuid:bulk_id>",
        view=bulk.show,
        summary="State, counts, rate and time left of a bulk",
        answers={200: BulkDocument},
    ),
    Route(
        name="cancel_bulk",
        method="DELETE",
        path=f"{API}/bulk/<uuid:bulk_id>",
        view=bulk.cancel,
        summary="Cancel the rows of a bulk that have not ended",
        answers={200: BulkDocument},
    ),
    Route(
        name="retry_bulk",
        method="POST",
        path=f"{API}/bulk/<uuid:bulk_id>/retry",
        view=bulk.retry,
        summary="Run the rows of a bulk again that failed or are dead",
        answers={202: BulkDocument},
    ),
    Route(
        name="bulk_output",
        method="GET",
        path=f"{API}/bulk/<uuid:bulk_id>/output",
        view=bulk.output,
        summary="The input's columns and the answers, in input order; JSONL if `Accept` asks",
        answers={200: (bulk.CSV, bulk.JSONL, bulk.JSONL_TOO)},
    ),
    Route(
        name="list_models",
        method="GET",
        path=f"{API}/models",
        view=models.listing,
        summary="The registered models and whether workers serve them",
        answers={200: ModelList},
    ),
    Route(
        name="list_routes",
        method="GET",
        path=f"{API}/routes",
        view=model_routes.listing,
        summary="The routes and how their models stand",
        answers={200: RouteList},
    ),
    Route(
        name="show_route",
        method="GET",
        path=f"{API}/routes/<name>",
        view=model_routes.show,
        summary="A route and how its models stand",
        answers={200: RouteDocument},
    ),
    Route(
        name="put_route",
        method="PUT",
        path=f"{API}/routes/<name>",
        view=model_routes.put,
        summary="Add a route, or replace the one of that name",
        body=RouteConfig,
        answers={200: RouteDocument},
    ),
    Route(
        name="remove_route",
        method="DELETE",
        path=f"{API}/routes/<name>",
        view=model_routes.remove,
        summary="Remove a route; jobs that came by it run where they are",
        answers={200: RouteDocument},
    ),
    Route(
        name="health",
        method="GET",
        path="/health",
        view=ops.health,
        summary="Readiness, version and models in one",
        answers={200: HealthDocument, 503: HealthDocument},
    ),
    Route(
        name="health_live",
        method="GET",
        path="/health/live",
        view=ops.live,
        summary="Whether this process answers",
        answers={200: LiveDocument},
    ),
    Route(
        name="health_ready",
        method="GET",
        path="/health/ready",
        view=ops.ready,
        summary="Whether jobs can be accepted",
        answers={200: ReadyDocument, 503: ReadyDocument},
    ),
    Route(
        name="health_models",
        method="GET",
        path="/health/models",
        view=models.listing,
        summary="How the models fare on the workers",
        answers={200: ModelList},
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        view=ops.metrics,
        summary="Metrics in Prometheus' text format",
        answers={200: ("text/plain",)},
    ),
)
