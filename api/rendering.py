"""Turns values of the domain into the JSON that clients see."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from flask import Response

from api.schemas import (
    BulkDocument,
    ErrorDocument,
    JobDocument,
    ResultDocument,
    Timings,
    WaitDocument,
)
from nexus_jobs.bulk_service import BulkStatus
from nexus_jobs.explaining import Wait
from nexus_jobs.job import Cached, Job, JobError, Result


def json_response(
    document: Any,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    mimetype: str = "application/json",
) -> Response:
    body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
    return Response(body, status, headers, mimetype)


def job_document(job: Job, wait: Wait | None = None) -> JobDocument:
    """The document of a job; what it waits for is told only to who asks for that one job."""
    return {
        "id": job.id,
        "object": "job",
        "model": job.request.model,
        "state": job.state,
        "priority": job.request.priority,
        "attempt": job.attempt,
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp_or_none(job.started_at),
        "finished_at": timestamp_or_none(job.finished_at),
        "result": _result(job.result) if job.result else None,
        "error": _error(job.error) if job.error else None,
        "cached": job.cached,
        "timings": _timings(job),
        "waiting": _waiting(wait) if wait else None,
        "worker": job.worker,
        "bulk_id": job.bulk_id,
        "route": job.route,
        "shadow_of": job.shadow_of,
        "metadata": dict(job.request.metadata) if job.request.metadata is not None else None,
    }


def bulk_document(status: BulkStatus) -> BulkDocument:
    bulk = status.bulk
    return {
        "id": bulk.id,
        "object": "bulk",
        "state": status.state,
        "model": bulk.model,
        "filename": bulk.filename,
        "total": bulk.total,
        "counts": {state.value: count for state, count in status.counts.items()},
        "rows_per_second": round(status.rows_per_second, 3),
        "tokens_per_second": round(status.tokens_per_second, 3),
        "eta_seconds": None if status.eta_seconds is None else round(status.eta_seconds, 3),
        "submitted_at": timestamp(bulk.submitted_at),
        "finished_at": timestamp_or_none(status.finished_at),
    }


def _result(result: Result) -> ResultDocument:
    return {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "total_tokens": result.prompt_tokens + result.completion_tokens,
        },
    }


def _error(error: JobError) -> ErrorDocument:
    return {"code": error.code, "message": error.message, "trace": error.trace}


def _waiting(wait: Wait) -> WaitDocument:
    return {
        "position": wait.position,
        "reason": wait.reason,
        "detail": wait.detail,
        "estimated_start_seconds": wait.start_in,
    }


def _timings(job: Job) -> Timings:
    # A cached result carries the times of the job that computed it, not of this one.
    computed = job.result if job.cached is Cached.NO else None
    return {
        "queue_ms": _milliseconds(job.submitted_at, job.started_at),
        "prefill_ms": round(computed.prefill_ms, 3) if computed else None,
        "decode_ms": round(computed.decode_ms, 3) if computed else None,
        "total_ms": _milliseconds(job.submitted_at, job.finished_at),
    }


def _milliseconds(since: float, until: float | None) -> float | None:
    return None if until is None else round((until - since) * 1000, 3)


def timestamp_or_none(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(seconds)


def timestamp(seconds: float) -> str:
    naive = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return naive.isoformat(timespec="milliseconds") + "Z"
