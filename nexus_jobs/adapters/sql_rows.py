"""Between the values of the application and the rows of the tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, Select, or_, select

from nexus_jobs.adapters.database import database_now
from nexus_jobs.adapters.row_insert import RowInsert
from nexus_jobs.adapters.tables import jobs, results
from nexus_jobs.job import (
    Cached,
    FinishReason,
    Job,
    JobError,
    Message,
    Request,
    Result,
    SamplingParams,
)
from nexus_jobs.states import State

AnyRow = Row[*tuple[Any, ...]]

RESULT_COLUMNS = (
    results.c.text,
    results.c.finish_reason,
    results.c.prompt_tokens,
    results.c.completion_tokens,
    results.c.prefill_ms,
    results.c.decode_ms,
)


def may_run() -> ColumnElement[bool]:
    """Nothing holds the job back any more."""
    return or_(jobs.c.run_after.is_(None), jobs.c.run_after <= database_now())


RESULTS = RowInsert(results)
JOBS_WITH_RESULTS: Select[Any] = select(jobs, *RESULT_COLUMNS).outerjoin_from(jobs, results)


def job_row(job: Job) -> dict[str, Any]:
    """The row of a job that has just been committed."""
    request, error = job.request, job.error
    return {
        "id": job.id,
        "model": request.model,
        "state": job.state,
        "priority": request.priority,
        "prompt": request.prompt,
        "messages": request.messages,
        "params": request.params,
        "metadata": request.metadata,
        "use_cache": request.use_cache,
        "reproducible": request.reproducible,
        "fingerprint": job.fingerprint,
        "submitted_at": job.submitted_at,
        "due_at": job.due_at,
        "expires_in": request.expires_in,
        "expires_at": job.expires_at,
        "run_after": job.run_after,
        "suspect": job.suspect,
        "finished_at": job.finished_at,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "bulk_id": job.bulk_id,
        "bulk_index": job.bulk_index,
        "cells": job.cells,
        "route": job.route,
        "shadow_of": job.shadow_of,
        "cached": job.cached,
        **error_columns(error),
    }


def error_columns(error: JobError | None) -> dict[str, str | None]:
    return {
        "error_code": error.code if error else None,
        "error_message": error.message if error else None,
        "error_trace": error.trace if error else None,
    }


def result_row(job_id: str, result: Result, fingerprint: str | None, now: float) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "prefill_ms": result.prefill_ms,
        "decode_ms": result.decode_ms,
        "fingerprint": fingerprint,
        "created_at": now,
    }


def result_of(row: AnyRow) -> Result:
    """The result in a row that has RESULT_COLUMNS."""
    return Result(
        text=row.text,
        finish_reason=FinishReason(row.finish_reason),
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        prefill_ms=row.prefill_ms,
        decode_ms=row.decode_ms,
    )


def job_with_result(row: AnyRow) -> Job:
    """The job in a row of JOBS_WITH_RESULTS."""
    return job_of(row, None if row.text is None else result_of(row))


def job_of(row: AnyRow, result: Result | None = None) -> Job:
    """The job in a row that has all columns of `jobs`."""
    return Job(
        id=row.id,
        request=_request_of(row),
        state=State(row.state),
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        submitted_at=row.submitted_at,
        due_at=row.due_at,
        expires_at=row.expires_at,
        run_after=row.run_after,
        suspect=row.suspect,
        started_at=row.started_at,
        finished_at=row.finished_at,
        lease_token=row.lease_token,
        worker=row.worker,
        fingerprint=row.fingerprint,
        bulk_id=row.bulk_id,
        bulk_index=row.bulk_index,
        cells=row.cells,
        route=row.route,
        shadow_of=row.shadow_of,
        cached=Cached(row.cached),
        result=result,
        error=_error_of(row),
    )


def _error_of(row: AnyRow) -> JobError | None:
    if row.error_code is None:
        return None
    return JobError(row.error_code, row.error_message, row.error_trace)


def _request_of(row: AnyRow) -> Request:
    params = {**row.params, "stop": tuple(row.params["stop"])}
    messages = row.messages
    return Request(
        model=row.model,
        prompt=row.prompt,
        messages=None if messages is None else tuple(Message(**turn) for turn in messages),
        params=SamplingParams(**params),
        priority=row.priority,
        expires_in=row.expires_in,
        use_cache=row.use_cache,
        reproducible=row.reproducible,
        metadata=row.metadata,
    )
