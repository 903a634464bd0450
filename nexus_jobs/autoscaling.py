"""How many local workers to run, from how many the scheduler recommends."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE_SECONDS = 60.0
"""How long fewer workers must have been enough before one is let go: a start costs a load."""


@dataclass(slots=True, kw_only=True)
class Autoscaler:
    """Grows at once and shrinks one by one, between `least` and `most` workers."""

    least: int
    most: int
    _enough_since: float | None = None

    def workers(self, now: float, current: int, recommended: int) -> int:
        """How many workers there should be now; `now` is in monotonic seconds."""
        aim = min(max(recommended, self.least), self.most)
        if aim >= current:
            self._enough_since = None
            return aim
        if self._enough_since is None:
            self._enough_since = now
        if now - self._enough_since < PATIENCE_SECONDS:
            return current
        self._enough_since = now
        return current - 1
