"""Which job stands for a submission that has an idempotency key: told once for every store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nexus_jobs.errors import InvalidRequest
from nexus_jobs.job import Idempotency, NewJob


@dataclass(frozen=True, slots=True)
class KeptKey:
    """What a key stands for: the digest of a submission, and the job that it made."""

    digest: str
    job_id: str


def standing_ids(new_jobs: Sequence[NewJob], kept: Mapping[str, KeptKey]) -> list[str]:
    """For each new job the id of the job in its place: the one of its key, or itself.

    `kept` has all keys of the new jobs.

    Raises:
        InvalidRequest: a key stands for another submission.
    """
    return [
        job.id if job.idempotency is None else standing_id(job.idempotency, kept)
        for job in new_jobs
    ]


def standing_id(mine: Idempotency, kept: Mapping[str, KeptKey]) -> str:
    """The id of the job of a key that is kept.

    Raises:
        InvalidRequest: the key stands for another submission.
    """
    known = kept[mine.key]
    if known.digest != mine.digest:
        raise InvalidRequest.of(
            "idempotency_key_reused",
            "the `Idempotency-Key` belongs to another request; repeat that one word for word, or "
            "send this one with a new key",
            field="Idempotency-Key",
        )
    return known.job_id
