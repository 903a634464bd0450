"""Expects the rate at which jobs will arrive from the rates that were seen."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Final

LEVEL_SECONDS: Final = 30.0
"""An old rate counts for 1/e after so long."""
TREND_SECONDS: Final = 120.0
"""The same for the trend: a trend is a slower thing to be sure of."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A level and its trend (Holt's linear smoothing, for observations of any length)."""

    level: float = 0.0
    """Events a second."""
    trend: float = 0.0
    """Events a second, more each second."""

    def observe(self, events: float, seconds: float) -> Forecast:
        """The forecast after so many events in the next `seconds` (more than 0)."""
        keep, keep_trend = exp(-seconds / LEVEL_SECONDS), exp(-seconds / TREND_SECONDS)
        expected = self.level + self.trend * seconds
        level = keep * expected + (1 - keep) * events / seconds
        slope = (level - self.level) / seconds
        return Forecast(max(0.0, level), keep_trend * self.trend + (1 - keep_trend) * slope)

    def ahead(self, seconds: float) -> float:
        """Events a second that are expected so far ahead; never below 0."""
        return max(0.0, self.level + self.trend * seconds)
