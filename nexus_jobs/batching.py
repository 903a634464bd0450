"""When a batch starts, and which prompts may join it: pure decisions over a snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

BUSY_SECONDS: Final = 4.0
"""How much longer a worker with rows waits until it looks for a suspect: it would have to let its
batch run empty, and an idle worker need not.
"""


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
    next_search: float = float("inf")
    """When to look for a suspect."""
    quarantine: bool = False
    """Suspects are running, or wait for the batch to be empty."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How many jobs to claim now (0: none), and when to look again if nothing happens before.

    `suspects`: the claim is for those only.
    """

    claim: int
    wake_at: float
    suspects: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """Bounds of a batch.

    An idle worker starts when `slots` jobs are expected or the first has waited `max_wait`
    seconds. A batch that runs lets jobs join at any step with a free slot, without waiting, but
    for suspects: those run when all others have left, and nobody joins them.
    """

    slots: int
    max_wait: float = 0.0
    max_join_tokens: int | None = None

    def decide(self, now: float, seen: Snapshot) -> Decision:
        """Whether to claim now. Without having been told of a job, only when a poll is due."""
        if seen.quarantine:
            return Decision(0, float("inf"))
        search_at = seen.next_search + (BUSY_SECONDS if seen.held else 0.0)
        if now >= search_at:
            return Decision(self.slots, now, suspects=True)
        free = self.slots - seen.held
        if free <= 0:
            return Decision(0, search_at)
        start_at = seen.next_poll if seen.since is None else seen.since + self.max_wait
        told = seen.since is not None and (seen.held > 0 or seen.expected >= self.slots)
        claim = free if told or now >= start_at else 0
        return Decision(claim, min(start_at, search_at))

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


class RowLimit:
    """How many rows fit into memory, by experience: halved when a batch did not fit, and one more
    each time that a batch as large as it may be has made `TRIAL_STEPS` steps.
    """

    TRIAL_STEPS: Final = 1000

    def __init__(self, slots: int) -> None:
        self._slots = self.rows = slots
        self._steps = 0

    def exceeded_by(self, rows: int) -> None:
        """So many rows did not fit."""
        self.rows = max(1, min(self.rows, rows // 2))
        self._steps = 0

    def stepped(self, rows: int) -> None:
        """So many rows did fit."""
        if rows >= self.rows < self._slots:
            self._steps += 1
            if self._steps >= self.TRIAL_STEPS:
                self.rows, self._steps = self.rows + 1, 0

    def bound(self, policy: BatchPolicy) -> BatchPolicy:
        """The policy, with no more slots than that."""
        return policy if policy.slots <= self.rows else replace(policy, slots=self.rows)
