"""Expects the rate at which jobs will arrive from the rates that were seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import Final

LOOK_SECONDS: Final = 5.0
"""What is seen in a shorter time is gathered first."""
LEVEL_SECONDS: Final = 30.0
"""An old rate counts for 1/e after so long."""
TREND_SECONDS: Final = 120.0
"""The same for the trend: a trend is a slower thing to be sure of."""
SURPRISE: Final = 3.0
"""Standard deviations of a Poisson process. Two looks in a row that are further off, and to the
same side, are no chance: a burst has begun or ended. One may be a client that sent many at once.
"""
SURPRISED_LEVEL_SECONDS: Final = 10.0
SURPRISED_TREND_SECONDS: Final = 20.0
"""What stands in for the longer times then."""
MOST_GROWTH: Final = 2.0
"""No trend is believed to lead further than to so many times the level."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A level and its trend (Holt's linear smoothing, for observations of any length), which follow
    at once where the rate has plainly changed.
    """

    level: float = 0.0
    """Events a second."""
    trend: float = 0.0
    """Events a second, more each second."""
    surprise: float = 0.0
    """By how many standard deviations the last look was off."""
    gathered: tuple[float, float] = (0.0, 0.0)
    """Events, and the seconds in which they came, that no look has counted yet."""

    def observe(self, events: float, seconds: float) -> Forecast:
        """The forecast after so many events in the next `seconds` (more than 0)."""
        events, seconds = self.gathered[0] + events, self.gathered[1] + seconds
        if seconds < LOOK_SECONDS:
            return replace(self, gathered=(events, seconds))
        due = max(1.0, (self.level + self.trend * seconds / 2) * seconds)
        surprise = (events - due) / sqrt(due)
        level_seconds, trend_seconds = LEVEL_SECONDS, TREND_SECONDS
        if min(surprise, self.surprise) > SURPRISE or max(surprise, self.surprise) < -SURPRISE:
            level_seconds, trend_seconds = SURPRISED_LEVEL_SECONDS, SURPRISED_TREND_SECONDS
        keep, keep_trend = exp(-seconds / level_seconds), exp(-seconds / trend_seconds)
        expected = self.level + self.trend * seconds
        level = keep * expected + (1 - keep) * events / seconds
        slope = (level - self.level) / seconds
        trend = keep_trend * self.trend + (1 - keep_trend) * slope
        return Forecast(max(0.0, level), trend, surprise)

    def ahead(self, seconds: float) -> float:
        """Events a second that are expected so far ahead; never below 0."""
        return max(0.0, min(self.level + self.trend * seconds, MOST_GROWTH * self.level))
