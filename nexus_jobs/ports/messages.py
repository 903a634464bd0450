"""What processes tell each other, what they keep at hand, and their clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from nexus_jobs.job import (
    Cached,
    JobError,
    Result,
)
from nexus_jobs.states import State


class TicketQueue(Protocol):
    """Tells workers that there is work. Losing or repeating a ticket does no harm."""

    def ring(self, counts: Mapping[str, int]) -> None:
        """Say how many new jobs each model has.

        Raises:
            QueueUnavailable: Redis did not answer; the scheduler rings again later.
        """

    def waiting(self, model: str) -> int:
        """How many tickets of the model no worker has taken yet."""


class ResultCache(Protocol):
    """One level of disposable copies of results, by fingerprint."""

    level: Cached

    def find(self, fingerprints: Sequence[str]) -> dict[str, Result]:
        """Those of the results that this level has; none if it cannot be reached."""

    def put(self, results: Mapping[str, Result]) -> None:
        """Keep copies; a failure is logged and otherwise ignored."""


class Channel(StrEnum):
    """What a signal between processes is about."""

    ENDED = "ended"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The model of a job, and its fields that got their last value when it ran and ended.

    Where both result and error are missing, only the row has them.
    """

    model: str
    state: State
    attempt: int
    started_at: float | None
    finished_at: float
    worker: str | None
    result: Result | None = None
    error: JobError | None = None

    @property
    def whole(self) -> bool:
        return self.result is not None or self.error is not None


Hints = Mapping[str, Ending | None]
"""Jobs by id; with how they ended where the sender knows, else None: the row has it."""


class Signals(Protocol):
    """Hints between processes, delivered at most once; every listener can do without them."""

    def send(self, channel: Channel, hints: Hints) -> None:
        """Send hints about jobs; a failure is logged and otherwise ignored."""

    def listen(self, channel: Channel, heard: Callable[[Hints], None]) -> None:
        """Call `heard` from a background thread for the hints of each message, until `close`."""

    def close(self) -> None: ...


class Clock(Protocol):
    """Monotonic seconds, for waits and measurements inside one process."""

    def __call__(self) -> float: ...
