"""Copies of results in this process, bounded by size and age."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from cachetools import TTLCache

from nexus_jobs.job import Cached, Result

OVERHEAD_BYTES = 600
"""What a result takes beside its text: the objects around it, measured with tracemalloc."""


class MemoryCache:
    """At most `max_bytes` of results, none older than `ttl_seconds`; the least used goes first."""

    level = Cached.MEMORY

    def __init__(self, *, max_bytes: int, ttl_seconds: float) -> None:
        self._lock = threading.Lock()
        self._results: TTLCache[str, Result] = TTLCache(max_bytes, ttl_seconds, getsizeof=_size)

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        with self._lock:
            found = {name: self._results.get(name) for name in fingerprints}
        return {name: result for name, result in found.items() if result is not None}

    def put(self, results: Mapping[str, Result]) -> None:
        with self._lock:
            for name, result in results.items():
                if _size(result) <= self._results.maxsize:
                    self._results[name] = result


def _size(result: Result) -> int:
    return OVERHEAD_BYTES + 4 * len(result.text)
