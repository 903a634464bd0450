"""What becomes of a job when an attempt at it went wrong: a pure decision."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from nexus_jobs.errors import EngineError, InvalidRequest, NexusError, RanTooLong
from nexus_jobs.job import Job, JobError, Outcome
from nexus_jobs.states import Event

FRAMES = 3
"""Places in the code that a trace names for each error."""
LONGEST_MESSAGE = 300
"""Characters of one error's message in a trace."""

_HOPELESS = (InvalidRequest, RanTooLong)
"""Another attempt would end in the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long a failed job rests before its next attempt.

    The rest doubles from `first` to `longest` seconds, and a random half of it is left out, so
    that jobs which failed together do not come back together ("equal jitter", M. Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
    """

    first: float = 1.0
    longest: float = 60.0
    attempts: int = 3
    """That a job is given, as it is submitted and each time that somebody retries it."""

    def rest(self, attempt: int, chance: float) -> float:
        """Seconds to wait after that attempt (the first is 1); `chance` is from 0 up to 1."""
        whole = min(self.longest, self.first * 2.0 ** min(max(attempt, 1) - 1, 60))
        return whole * (1 + chance) / 2

    def outcome(self, job: Job, error: Exception, chance: float) -> Outcome:
        """How the attempt under way ends that met this error.

        A job fails if another attempt is hopeless, is buried if none is left, and is queued again
        otherwise. One whose batch was lost may be the cause, and is a suspect from then on.
        """
        if isinstance(error, _HOPELESS):
            event = Event.FAIL
        elif job.is_last_attempt:
            event = Event.BURY
        else:
            event = Event.REQUEUE
        attempt = self.attempts - (job.max_attempts - job.attempt)  # since the last retry
        return Outcome(
            lease=job.lease,
            event=event,
            error=described(error),
            delay=self.rest(attempt, chance) if event is Event.REQUEUE else 0.0,
            suspect=job.suspect or isinstance(error, EngineError),
        )


def described(error: Exception) -> JobError:
    """The error for people and for engineers.

    Of an error that we did not foresee nobody sees more than its kind and place: its message may
    hold anything, other people's prompts included.
    """
    if isinstance(error, InvalidRequest):
        return JobError(error.code, str(error))
    trace = "\n".join(_chain(error))
    if isinstance(error, NexusError):
        return JobError(error.code, str(error), trace)
    return JobError(NexusError.code, type(error).__name__, trace)


def _chain(error: BaseException | None) -> Iterator[str]:
    """A line for each error, the one that is told first, and below it those that led to it."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
        places = (f"{PurePath(f.filename).name}:{f.lineno} in {f.name}" for f in reversed(frames))
        message = f": {str(error)[:LONGEST_MESSAGE]}" if isinstance(error, NexusError) else ""
        yield " ← ".join((f"{type(error).__name__}{message}", *places))
        yield from getattr(error, "__notes__", ())
        error = error.__cause__ or error.__context__
