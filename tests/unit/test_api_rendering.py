"""What clients see of a job."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from api.rendering import job_document, json_response
from nexus_jobs.job import Cached, FinishReason, Job, JobError, Request, Result
from nexus_jobs.states import State

QUEUED = Job(
    id="0197a5c2-0000-7000-8000-000000000001",
    request=Request(model="m", prompt="p", priority=3, metadata={"row": [1, None]}),
    state=State.QUEUED,
    attempt=0,
    max_attempts=3,
    submitted_at=1_700_000_000.0,
    due_at=1_700_000_015.0,
)
ENDED = replace(
    QUEUED,
    state=State.SUCCEEDED,
    attempt=1,
    worker="w1",
    started_at=1_700_000_000.25,
    finished_at=1_700_000_001.5,
    result=Result(
        text="hi ☃",
        finish_reason=FinishReason.STOP,
        prompt_tokens=3,
        completion_tokens=2,
        prefill_ms=10.12345,
        decode_ms=20.0,
    ),
)


def test_a_queued_job_says_null_where_nothing_is_known_yet():
    assert job_document(QUEUED) == {
        "id": QUEUED.id,
        "object": "job",
        "model": "m",
        "state": "queued",
        "priority": 3,
        "attempt": 0,
        "submitted_at": "2023-11-14T22:13:20.000Z",
        "started_at": None,
        "finished_at": None,
        "result": None,
        "error": None,
        "cached": "no",
        "timings": {"queue_ms": None, "prefill_ms": None, "decode_ms": None, "total_ms": None},
        "waiting": None,
        "worker": None,
        "bulk_id": None,
        "route": None,
        "shadow_of": None,
        "metadata": {"row": [1, None]},
    }


def test_a_succeeded_job_carries_its_text_its_usage_and_its_times():
    document = job_document(ENDED)
    assert document["started_at"] == "2023-11-14T22:13:20.250Z"
    assert document["finished_at"] == "2023-11-14T22:13:21.500Z"
    assert document["result"] == {
        "text": "hi ☃",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    assert document["timings"] == {
        "queue_ms": 250.0,
        "prefill_ms": 10.123,
        "decode_ms": 20.0,
        "total_ms": 1500.0,
    }


def test_a_cached_answer_does_not_claim_the_times_of_the_job_that_computed_it():
    timings = job_document(replace(ENDED, cached=Cached.REDIS, started_at=None))["timings"]
    assert timings == {
        "queue_ms": None,
        "prefill_ms": None,
        "decode_ms": None,
        "total_ms": 1500.0,
    }


def test_a_failed_job_says_why():
    failed = replace(QUEUED, state=State.FAILED, error=JobError("too_long", "by 3 tokens"))
    assert job_document(failed)["error"] == {
        "code": "too_long",
        "message": "by 3 tokens",
        "trace": None,
    }


@pytest.mark.parametrize("job", [QUEUED, ENDED])
def test_enumerations_and_non_ascii_text_reach_the_wire_as_they_are(job: Job):
    response = json_response(job_document(job), 202, {"X-Kept": "yes"})
    assert (response.status_code, response.headers["X-Kept"]) == (202, "yes")
    assert orjson.loads(response.data) == job_document(job)
