"""Names for requests: one that finds an answer again, and one that knows a repeated request."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

import orjson

from nexus_jobs.job import Request
from nexus_jobs.models import ModelConfig


def fingerprint(request: Request, model: ModelConfig) -> str | None:
    """The SHA-256 of everything that the answer depends on; None if it also depends on chance.

    A request is deterministic when it is greedy or has a seed. Priority, deadlines and metadata
    do not change an answer, so they are left out; the model's weights and template do.
    """
    params = request.params
    if params.temperature > 0 and params.seed is None:
        return None
    weights = [model.source, model.revision, model.precision]
    identity = {
        "model": [model.name, model.type, *weights, model.max_sequence_length],
        "preprocessing": model.preprocessing.model_dump(),
        "prompt": request.prompt,
        "messages": request.messages and [[m.role, m.content] for m in request.messages],
        "params": asdict(params),
        "reproducible": request.reproducible,
    }
    return _sha256(identity)


def digest(request: Request) -> str:
    """The SHA-256 of all that was asked for, however it was written.

    What has its default value is left out, so that a digest stays what it is when a release adds
    a field.
    """
    return _sha256({k: v for k, v in _fields(request).items() if v != _DEFAULTS[k]})


def _fields(request: Request) -> dict[str, Any]:
    return {**asdict(request), **asdict(request.params), "params": None}


_DEFAULTS = _fields(Request(model=""))


def _sha256(identity: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()
