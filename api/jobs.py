"""Jobs: submit, read, list, cancel, and generate while the client waits."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from flask import Response, url_for

from api.parsing import idempotency_key, preferred_wait
from api.rendering import job_document, json_response
from api.schemas import BatchDocument, JobPage, JobQuery, WaitQuery
from nexus_jobs.bootstrap import Services
from nexus_jobs.job import Job
from nexus_jobs.ports import JobFilter
from nexus_jobs.states import State
from nexus_jobs.submission import BatchSubmission, Changes, Submission


def submit(services: Services, body: Submission) -> Response:
    key = idempotency_key()
    if key is None:
        [job] = services.jobs.submit([body.to_request()])
        return json_response(job_document(job), 202, _location(job))
    job, repeated = services.jobs.submit_once(body.to_request(), key)
    return json_response(job_document(job), 202, {**_location(job), **_replayed(repeated)})


def show(services: Services, query: WaitQuery, job_id: UUID) -> Response:
    job = services.jobs.get(str(job_id))
    if query.wait and not job.ended:
        [job] = services.jobs.wait([job.id], query.wait)
    wait = services.standings.of(job) if job.state is State.QUEUED else None
    return json_response(job_document(job, wait))


def listing(services: Services, query: JobQuery) -> Response:
    which = JobFilter(
        state=query.state,
        model=query.model,
        route=query.route,
        bulk_id=_text(query.bulk),
        shadows=query.shadow == "yes",
    )
    # One more than the page holds tells whether another page follows.
    found = services.jobs.search(which, limit=query.limit + 1, before=_text(query.cursor))
    page = found[: query.limit]
    document: JobPage = {
        "object": "list",
        "data": [job_document(job) for job in page],
        "next_cursor": page[-1].id if len(found) > len(page) else None,
    }
    return json_response(document)


def cancel(services: Services, job_id: UUID) -> Response:
    return json_response(job_document(services.jobs.cancel(str(job_id))))


def retry(services: Services, job_id: UUID, body: Changes) -> Response:
    job = services.jobs.retry(str(job_id), body)
    return json_response(job_document(job), 202, _location(job))


def generate(services: Services, body: Submission) -> Response:
    seconds, headers = preferred_wait()
    key = idempotency_key()
    if key is None:
        job = services.jobs.generate(body.to_request(), seconds)
    else:
        job, repeated = services.jobs.submit_once(body.to_request(), key, seconds)
        headers = {**headers, **_replayed(repeated)}
    if job.ended:
        return json_response(job_document(job), 200, headers)
    return json_response(job_document(job), 202, {**headers, **_location(job)})


def generate_batch(services: Services, body: BatchSubmission) -> Response:
    seconds, applied = preferred_wait()
    bulk, jobs = services.bulks.submit_prompts(body.to_requests())
    jobs = services.jobs.wait([job.id for job in jobs], seconds)
    document: BatchDocument = {
        "object": "list",
        "bulk_id": bulk.id,
        "data": [job_document(job) for job in jobs],
    }
    if all(job.ended for job in jobs):
        return json_response(document, 200, applied)
    location = {"Location": url_for("show_bulk", bulk_id=bulk.id)}
    return json_response(document, 202, {**applied, **location})


def _location(job: Job) -> Mapping[str, str]:
    return {"Location": url_for("show_job", job_id=job.id)}


def _replayed(repeated: bool) -> Mapping[str, str]:
    return {"Idempotency-Replayed": "true"} if repeated else {}


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
