"""When a batch starts, and which prompts may join it: pure decisions over a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a worker knows about one model's batch at this moment. Times are monotonic seconds.

    `expected` counts the jobs that tickets announced and no claim has answered yet, `since` is
    when the first of them was announced. `held` rows are in the batch or about to join it.
    """

    held: int
    expected: int
    since: float | None
    next_poll: float


@dataclass(frozen=True, slots=True)
class Decision:
    """How many jobs to claim now (0: none), and when to look again if nothing happens before."""

    claim: int
    wake_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """Bounds of a batch.

    An idle worker starts when `slots` jobs are expected or the first has waited `max_wait`
    seconds. A batch that runs lets jobs join at any step with a free slot, without waiting.
    """

    slots: int
    max_wait: float = 0.0
    max_join_tokens: int | None = None

    def decide(self, now: float, seen: Snapshot) -> Decision:
        """Whether to claim now. Without having been told of a job, only when a poll is due."""
        free = self.slots - seen.held
        if free <= 0:
            return Decision(0, float("inf"))
        start_at = seen.next_poll if seen.since is None else seen.since + self.max_wait
        told = seen.since is not None and (seen.held > 0 or seen.expected >= self.slots)
        return Decision(free if told or now >= start_at else 0, start_at)

    def joining(self, prompt_lengths: Iterable[int]) -> int:
        """How many of the waiting prompts, in order, join at this step.

        Their tokens together stay within `max_join_tokens`, so that one step's prefill does not
        hold up the rows that run; the first always joins, however long it is.
        """
        total = count = 0
        for length in prompt_lengths:
            total += length
            if count and self.max_join_tokens is not None and total > self.max_join_tokens:
                break
            count += 1
        return count
