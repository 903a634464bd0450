"""Copies of results in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import orjson
import structlog

from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.job import Cached, FinishReason, Result

log = structlog.get_logger(__name__)

_PREFIX = "nexus:result:"


class RedisCache:
    """Key `nexus:result:<fingerprint>` holds a result as JSON and goes away after the TTL."""

    level = Cached.REDIS

    def __init__(self, link: RedisLink, *, ttl_seconds: float) -> None:
        self._link = link
        self._ttl_ms = max(1, int(ttl_seconds * 1000))

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        try:
            with self._link as client:
                values = client.mget([_PREFIX + name for name in fingerprints])
        except QueueUnavailable as error:
            log.warning("cache.unread", reason=str(error))
            return {}
        found = zip(fingerprints, cast("list[bytes | None]", values), strict=True)
        decoded = ((name, _decode(value)) for name, value in found if value is not None)
        return {name: result for name, result in decoded if result is not None}

    def put(self, results: Mapping[str, Result]) -> None:
        try:
            with self._link as client, client.pipeline(transaction=False) as pipeline:
                for name, result in results.items():
                    pipeline.set(_PREFIX + name, orjson.dumps(result), px=self._ttl_ms)
                pipeline.execute()
        except QueueUnavailable as error:
            log.warning("cache.unwritten", results=len(results), reason=str(error))


def _decode(value: bytes) -> Result | None:
    try:
        fields = orjson.loads(value)
        return Result(**{**fields, "finish_reason": FinishReason(fields["finish_reason"])})
    except (ValueError, TypeError, KeyError):  # written by another version; as good as not there
        return None
