"""Workers' reports as JSON."""

from __future__ import annotations

import orjson
from pydantic import TypeAdapter

from nexus_jobs.fleet import WorkerReport

_ADAPTER = TypeAdapter(WorkerReport)


def encode(report: WorkerReport) -> bytes:
    return orjson.dumps(report)


def decode(text: str | bytes) -> WorkerReport:
    """The report.

    Raises:
        ValueError: this is none, or one of another version of this software.
    """
    return _ADAPTER.validate_json(text)
