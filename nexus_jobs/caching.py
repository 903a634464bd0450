"""Several levels of result copies behind one look-up; the nearest that knows answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nexus_jobs import telemetry
from nexus_jobs.job import Cached, Result
from nexus_jobs.ports import JobStore, ResultCache


class StoredResults:
    """The `results` table seen as the last cache level."""

    level = Cached.DATABASE

    def __init__(self, store: JobStore, ttl_seconds: float) -> None:
        self._store = store
        self._ttl = ttl_seconds

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        return self._store.find_results(fingerprints, max_age=self._ttl)

    def put(self, results: Mapping[str, Result]) -> None:
        """Nothing to do: the table has them since the jobs ended."""


class TieredCache:
    """Levels from the nearest to the farthest; a find fills the nearer ones."""

    def __init__(self, levels: Sequence[ResultCache]) -> None:
        self._levels = levels

    def find(self, fingerprints: Sequence[str]) -> dict[str, tuple[Result, Cached]]:
        """The known results and the level each came from."""
        found: dict[str, tuple[Result, Cached]] = {}
        missing = list(dict.fromkeys(fingerprints))
        for depth, cache in enumerate(self._levels):
            if not missing:
                break
            hits = cache.find(missing)
            if hits:
                telemetry.cache_hits.labels(cache.level).inc(len(hits))
                found.update({name: (result, cache.level) for name, result in hits.items()})
                missing = [name for name in missing if name not in hits]
                for nearer in self._levels[:depth]:
                    nearer.put(hits)
        telemetry.cache_misses.inc(len(missing))
        return found

    def put(self, results: Mapping[str, Result]) -> None:
        """Copy new results to every level."""
        if results:
            for cache in self._levels:
                cache.put(results)
