"""One name for a deterministic request, so that its answer can be found again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import orjson

from nexus_jobs.config import ModelConfig
from nexus_jobs.job import Request


def fingerprint(request: Request, model: ModelConfig) -> str | None:
    """The SHA-256 of everything that the answer depends on; None if it also depends on chance.

    A request is deterministic when it is greedy or has a seed. Priority, deadlines and metadata
    do not change an answer, so they are left out; the model's weights and template do.
    """
    params = request.params
    if params.temperature > 0 and params.seed is None:
        return None
    identity = {
        "model": [model.name, model.type, model.source, model.precision, model.max_sequence_length],
        "preprocessing": model.preprocessing.model_dump(),
        "prompt": request.prompt,
        "messages": request.messages and [[m.role, m.content] for m in request.messages],
        "params": asdict(params),
        "reproducible": request.reproducible,
    }
    encoded = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(encoded).hexdigest()
