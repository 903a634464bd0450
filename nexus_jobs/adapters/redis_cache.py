"""Copies of results in Redis, shared by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import orjson
import redis
import structlog

from nexus_jobs.job import Cached, FinishReason, Result

log = structlog.get_logger(__name__)

_PREFIX = "nexus:result:"


class RedisCache:
    """Key `nexus:result:<fingerprint>` holds a result as JSON and goes away after the TTL."""

    level = Cached.REDIS

    def __init__(self, client: redis.Redis, *, ttl_seconds: float) -> None:
        self._redis = client
        self._ttl_ms = max(1, int(ttl_seconds * 1000))

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        try:
            values = self._redis.mget([_PREFIX + name for name in fingerprints])
        except redis.RedisError as error:
            log.warning("cache.unread", reason=str(error))
            return {}
        found = zip(fingerprints, cast("list[bytes | None]", values), strict=True)
        return {name: _decode(value) for name, value in found if value is not None}

    def put(self, results: Mapping[str, Result]) -> None:
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for name, result in results.items():
                    pipeline.set(_PREFIX + name, orjson.dumps(result), px=self._ttl_ms)
                pipeline.execute()
        except redis.RedisError as error:
            log.warning("cache.unwritten", results=len(results), reason=str(error))


def _decode(value: bytes) -> Result:
    fields = orjson.loads(value)
    return Result(**{**fields, "finish_reason": FinishReason(fields["finish_reason"])})
