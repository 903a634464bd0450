"""Sets a batch's size and wait from observed latency, so that jobs end within a target.

What a batch trades: with more rows each step takes longer for everybody, with fewer the hardware
does less and jobs queue. Jobs are of two kinds. *Awaited* ones were submitted one by one and should
end within the target, counted from their submission. Rows of bulks *fill* the rest: their file is
done sooner the fuller the batch, whatever a single row takes.

The size weighs the two as proportional fairness does (Kelly 1997): it maximises
`in_time ** URGENCY * rows / step_seconds(rows)`, where `in_time` is the share of the latest awaited
jobs for which steps of so many rows would have been quick enough. So the largest batch wins where
steps do not get longer with rows, where no size can meet the target, and where nobody waits. This
has Clipper's aim, the largest batch within a latency objective (Crankshaw et al., NSDI 2017), and
goes by the time of a step as SLA-constrained dynamic batching does (Pang et al. 2025,
arXiv:2503.05248). Where awaited jobs queue all the same, the size grows until they do not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil
from operator import itemgetter
from typing import Final

from nexus_jobs.batching import BatchPolicy

URGENCY: Final = 4
"""One per cent more jobs in time is worth so many per cent of throughput."""
REMEMBERED_JOBS: Final = 32
REMEMBERED_TARGETS: Final = 10
"""After so many targets' time without an awaited job, bulks get the whole batch."""
QUEUE_SHARE: Final = 0.2
"""The part of the target that a job may spend in the queue; if it is more, the batch grows."""
ADJUSTMENT: Final = 0.05
"""How far one claim moves the rows that are needed, up or down: so half the jobs queue longer."""
LEARNING_RATE: Final = 0.1
INSTANT: Final = 1e-9
"""Seconds; keeps a step from taking no time at all."""


class StepTimes:
    """Learns how long steps take: a broken line through a point for each power of two of rows.

    A point is the moving average of what was seen there, so it outlasts times without such batches.
    Towards no rows the line falls to no time until seen otherwise: smaller batches get a trial.
    """

    def __init__(self) -> None:
        self._points: dict[int, tuple[float, float]] = {}
        self._line = [(0.0, 0.0), (1.0, INSTANT)]

    def learn(self, rows: int, seconds: float) -> None:
        """Take in a step; it counts as at most twice as slow as the average."""
        seen = max(INSTANT, seconds)
        mean_rows, mean = self._points.get(rows.bit_length(), (float(rows), seen))
        self._points[rows.bit_length()] = (
            mean_rows + LEARNING_RATE * (rows - mean_rows),
            mean + LEARNING_RATE * (min(seen, 2 * mean) - mean),
        )
        points = sorted(self._points.values())
        rising = accumulate((seconds for _, seconds in points), max)
        self._line = [(0.0, 0.0), *zip((rows for rows, _ in points), rising, strict=True)]

    def seconds(self, rows: int) -> float:
        """What a step of so many rows takes."""
        end = min(bisect_left(self._line, (rows, 0.0)), len(self._line) - 1)
        (rows_0, seconds_0), (rows_1, seconds_1) = self._line[end - 1 : end + 1]
        return seconds_0 + (rows - rows_0) * (seconds_1 - seconds_0) / (rows_1 - rows_0)

    def rows_within(self, seconds: float, slots: int) -> int:
        """The most rows, of at most `slots`, with which a step takes no longer; 0 if none."""
        end = min(bisect_right(self._line, seconds, key=itemgetter(1)), len(self._line) - 1)
        if not end:
            return 0
        (rows_0, seconds_0), (rows_1, seconds_1) = self._line[end - 1 : end + 1]
        if seconds_0 == seconds_1:
            return slots
        rows = rows_0 + (seconds - seconds_0) * (rows_1 - rows_0) / (seconds_1 - seconds_0)
        return int(min(slots, rows))


@dataclass(frozen=True, slots=True)
class _Served:
    """An awaited job that has ended: when, how long it ran, and how long a step might have been."""

    at: float
    ran: float
    pace: float


class AdaptiveBatching:
    """Decides the `BatchPolicy` of the moment within `bounds`. All times are seconds.

    It is told of every step, and of each awaited job when it is claimed and when it has ended.
    """

    def __init__(self, bounds: BatchPolicy, target: float) -> None:
        self._bounds = bounds
        self._target = target
        self._steps = StepTimes()
        self._served: deque[_Served] = deque(maxlen=REMEMBERED_JOBS)
        self._needed = 1.0

    def stepped(self, rows: int, seconds: float) -> None:
        """A step, with the joining before it, took so long."""
        self._steps.learn(rows, seconds)

    def claimed(self, queued: float) -> None:
        """An awaited job was claimed so long after its submission."""
        if queued > QUEUE_SHARE * self._target:
            more = max(1.0, ADJUSTMENT * self._needed)
            self._needed = min(self._bounds.slots, self._needed + more)
        else:
            self._needed = max(1.0, self._needed * (1 - ADJUSTMENT))

    def served(self, now: float, *, queued: float, ran: float, tokens: int) -> None:
        """An awaited job ended after `ran` seconds in the batch with so many tokens."""
        # What is queued beyond the share asks for more rows, not for shorter steps.
        budget = self._target - min(queued, QUEUE_SHARE * self._target)
        self._served.append(_Served(now, ran, budget / max(1, tokens)))

    def policy(self, now: float, *, awaited: int, filling: int) -> BatchPolicy:
        """The bounds for now, with so many rows of either kind in the batch.

        Without rows of bulks in it the batch may always grow. Of `jobs` that are here, served
        `rows` at a time with steps of `base + per_row * rows`, the last to come needs
        `jobs * (base / rows + per_row)` for each token: the more rows, the less.
        """
        self._forget(now - REMEMBERED_TARGETS * self._target)
        size = max(self._best_size(), ceil(self._needed), 0 if filling else awaited + 1)
        return replace(
            self._bounds, slots=min(self._bounds.slots, size), max_wait=self._affordable_wait()
        )

    def _forget(self, before: float) -> None:
        while self._served and self._served[0].at < before:
            self._served.popleft()

    def _best_size(self) -> int:
        paces = sorted((job.pace for job in self._served), reverse=True)
        sizes = [(self._worth(0, self._bounds.slots), self._bounds.slots)]
        for in_time, pace in enumerate(paces, start=1):
            rows = self._steps.rows_within(pace, self._bounds.slots)
            if rows:
                sizes.append((self._worth(in_time, rows), rows))
        return max(sizes)[1]

    def _worth(self, in_time: int, rows: int) -> float:
        """Throughput, weighed by the share in time; one more job of either fate is assumed."""
        share = (1 + in_time) / (1 + len(self._served))
        return float(share**URGENCY * rows / self._steps.seconds(rows))

    def _affordable_wait(self) -> float:
        """A wait that fits behind the slowest of the latest jobs; none while nothing is known."""
        if not self._served:
            return 0.0
        spare = self._target - max(job.ran for job in self._served)
        return max(0.0, min(self._bounds.max_wait, QUEUE_SHARE / 2 * self._target, spare))
