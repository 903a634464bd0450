"""What clients did and what they were told, kept until the rows can be compared with it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle, islice
from typing import Final

from nexus_jobs.states import State

_WORDS: Final = ("may", "the", "quick", "brown", "fox", "find", "its", "way", "home", "in", "rain")


def prompt_of(number: int, length: int) -> str:
    """A prompt that begins with its unique number; the simulated engine answers with the same."""
    return " ".join([str(number), *islice(cycle(_WORDS), length - 1)])


def number_of(prompt: str) -> int:
    """The number that a prompt begins with."""
    return int(prompt.partition(" ")[0])


class Reply(StrEnum):
    """How a try to submit ended, as far as the client can know."""

    ACCEPTED = "accepted"  # 200 or 202
    REFUSED = "refused"  # 503
    UNKNOWN = "unknown"  # the connection broke, or nothing came in time


@dataclass(frozen=True, slots=True)
class Try:
    """One try to submit the prompt of that number; the rows of a file are not told their ids."""

    number: int
    reply: Reply
    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was said of a job in answer to a question; `state` is None for "there is no such job".

    `asked` and `at` are monotonic seconds; they are equal where nobody asked.
    """

    job_id: str
    asked: float
    at: float
    state: State | None
    attempt: int = 0
    text: str | None = None


class History:
    """Everything, in the order in which it was noted; any thread may note."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.tries: list[Try] = []
        self.told: list[Told] = []
        self.once: set[int] = set()
        """Numbers whose prompt was sent under an idempotency key of its own."""
        self.may_expire: set[int] = set()
        """Numbers whose prompt was sent with `expires_in`."""
        self.cancelled: set[str] = set()
        """Jobs that somebody has tried to cancel."""

    def tried(self, *tries: Try) -> None:
        with self._lock:
            self.tries.extend(tries)

    def heard(self, *told: Told) -> None:
        with self._lock:
            self.told.extend(told)

    def keyed(self, number: int) -> None:
        """Call before it is sent."""
        with self._lock:
            self.once.add(number)

    def expiring(self, number: int) -> None:
        """Call before it is sent."""
        with self._lock:
            self.may_expire.add(number)

    def cancelling(self, job_id: str) -> None:
        """Call before it is sent."""
        with self._lock:
            self.cancelled.add(job_id)
