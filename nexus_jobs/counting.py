"""How far bulks are, without counting a million rows for everyone who asks."""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple

from cachetools import TLRUCache

from nexus_jobs.job import BulkProgress
from nexus_jobs.ports import BulkStore, Clock

REMEMBERED: Final = 1000
"""Bulks whose progress is kept."""
CHEAP: Final = 0.01
"""A count that takes fewer seconds is not kept."""
SHARE: Final = 10
"""An answer serves for so many times as long as the database took for it."""


class _Counted(NamedTuple):
    progress: BulkProgress
    seconds: float


class BulkCounts:
    """The progress of bulks; that of a large one may be some seconds old."""

    def __init__(self, store: BulkStore, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: TLRUCache[str, _Counted] = TLRUCache(REMEMBERED, _good_until, clock)

    def of(self, bulk_id: str) -> BulkProgress:
        """How far the bulk is."""
        with self._lock:
            counted = self._counted.get(bulk_id)
        if counted is None:
            started = self._clock()
            progress = self._store.bulk_progress(bulk_id)
            counted = _Counted(progress, self._clock() - started)
            if counted.seconds > CHEAP:
                with self._lock:
                    self._counted[bulk_id] = counted
        return counted.progress

    def forget(self, bulk_id: str) -> None:
        """Count anew the next time, since its rows were changed on purpose."""
        with self._lock:
            self._counted.pop(bulk_id, None)


def _good_until(_bulk_id: str, counted: _Counted, now: float) -> float:
    return now + SHARE * counted.seconds
