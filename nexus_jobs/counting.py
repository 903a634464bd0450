"""How far bulks are, without counting a million rows for everyone who asks."""

from __future__ import annotations

import threading
import time
from operator import attrgetter
from typing import Final, NamedTuple

from cachetools import TLRUCache, cachedmethod

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


def _good_until(_bulk_id: str, counted: _Counted, now: float) -> float:
    return now + (SHARE * counted.seconds if counted.seconds > CHEAP else 0)


class BulkCounts:
    """The progress of bulks; that of a large one may be some seconds old.

    Those who ask for the same bulk while it is counted share the answer.
    """

    def __init__(self, store: BulkStore, clock: Clock = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._changed = threading.Condition()
        self._counted: TLRUCache[str, _Counted] = TLRUCache(REMEMBERED, _good_until, clock)

    def of(self, bulk_id: str) -> BulkProgress:
        """How far the bulk is."""
        return self._count(bulk_id).progress

    def forget(self, bulk_id: str) -> None:
        """Count anew the next time, since its rows were changed on purpose."""
        with self._changed:
            self._counted.pop(bulk_id, None)

    @cachedmethod(
        attrgetter("_counted"), key=lambda _self, bulk_id: bulk_id, condition=attrgetter("_changed")
    )
    def _count(self, bulk_id: str) -> _Counted:
        started = self._clock()
        progress = self._store.bulk_progress(bulk_id)
        return _Counted(progress, self._clock() - started)
