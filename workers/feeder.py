"""Claims and prepares jobs for one batch, so that the batch never waits for the database."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import structlog

from nexus_jobs.batching import BatchPolicy, Decision, Snapshot
from nexus_jobs.errors import StoreUnavailable
from nexus_jobs.execution import Row
from nexus_jobs.job import Job, Lease
from nexus_jobs.ports import Clock
from workers.tickets import LetGo

log = structlog.get_logger(__name__)

SEARCH_SECONDS = 1.0
"""How often to look for suspects at least: no ticket tells of them."""
HAND_OVER_SECONDS = 0.002
"""How long prepared rows are held back, so that those which take no time to prepare join together
and the batch is not woken for each.
"""


class Claim(Protocol):
    """Takes up to `limit` jobs under leases, either suspects or others.

    Raises:
        StoreUnavailable: none was taken.
    """

    def __call__(self, limit: int, *, suspects: bool = False) -> Sequence[Job]: ...


class Feeder:
    """Turns tickets into rows that are ready to join.

    Tickets `announce` jobs, its own thread runs `run`, the batch loop takes rows and gives back
    slots. One lock guards all of it. `policy` gives the bounds that hold at the moment.
    Suspects wait beside the others until the batch is empty and all that left it is `committed`,
    but for so many jobs: what a suspect may kill must not take results along.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], BatchPolicy],
        claim: Claim,
        prepare: Callable[[Job], Row | None],
        committed: Callable[[int], bool],
        poll_seconds: float,
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._claim = claim
        self._prepare = prepare
        self._committed = committed
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._lock = threading.Lock()
        """What is called under it must not call the feeder. One thread waits on each condition: to
        wake a thread in vain costs as much as a statement.
        """
        self._to_claim = threading.Condition(self._lock)
        """The feeder's own thread waits for a reason to claim."""
        self._to_join = threading.Condition(self._lock)
        """The batch waits for rows."""
        self._ready: deque[Row] = deque()
        self._held = 0
        self._announced = self._answered = 0
        self._tickets: deque[tuple[int, LetGo]] = deque()
        """What lets a ticket go when so many announced jobs are answered for."""
        self._since: float | None = None
        self._next_poll = self._next_search = 0.0
        self._looks_at = 0.0
        """When the feeder's thread decides next, if nobody wakes it before."""
        self._quarantine = self._isolated = False
        self._suspects: list[Row] = []
        self._stopping = False

    def announce(self, count: int, let_go: LetGo) -> bool:
        """Take note of `count` new jobs; whether the batch cannot take them all at once.

        Then `let_go` is called when claims have answered for them, or at the end.
        """
        with self._lock:
            if self._stopping:
                return False
            self._announced += count
            if self._since is None:
                self._since = self._clock()
            expected = self._held + self._announced - self._answered
            waits = self._quarantine or expected > self._policy().slots
            if waits:
                self._tickets.append((self._announced, let_go))
            self._to_claim.notify()
            return waits

    def run(self) -> None:
        """Claim whenever the policy says so, until `stop`."""
        while (decision := self._await_decision()).claim:
            try:
                if decision.suspects:
                    self._search(decision.claim)
                else:
                    self._feed(decision.claim)
            except StoreUnavailable as error:
                log.warning("claim.failed", reason=str(error))
                self._pause()

    @property
    def stopped(self) -> bool:
        return self._stopping

    def wait(self, at_most: float) -> bool:
        """Wait until rows are ready or it is stopped, for so many seconds; whether they are."""
        with self._lock:
            self._to_join.wait_for(
                lambda: self._stopping or self._ready or self._suspects_turn(),
                min(at_most, threading.TIMEOUT_MAX),
            )
            return bool(self._ready) or self._suspects_turn()

    def take(self, room: int, at_most: float) -> list[Row]:
        """The rows that join at this step; waits for `room` of them, `at_most` so many seconds."""
        if not (at_most or self._ready or self._suspects):
            return []
        with self._lock:
            if at_most:
                self._to_join.wait_for(lambda: self._stopping or len(self._ready) >= room, at_most)
            if self._suspects_turn():
                return self._all_suspects()
            count = self._policy().joining(row.prompt_length for row in self._ready)
            return [self._ready.popleft() for _ in range(count)]

    def free(self, slots: int) -> None:
        """Give back the slots of rows that have left the batch."""
        with self._lock:
            self._held -= slots
            self._end_quarantine()
            decision = self._decide(self._clock())
            if decision.claim or decision.wake_at < self._looks_at:
                self._to_claim.notify()

    def look_again(self) -> None:
        """Rows that left the batch have been committed."""
        with self._lock:
            if self._suspects:
                self._to_join.notify()

    def drop_suspects(self, unwanted: Collection[Lease]) -> list[Row]:
        """Those of the suspects that wait for the batch to be empty, and need not any longer."""
        with self._lock:
            dropped = [row for row in self._suspects if row.job.lease in unwanted]
            self._suspects = [row for row in self._suspects if row not in dropped]
            self._held -= len(dropped)
            self._end_quarantine()
            self._to_claim.notify()
            self._to_join.notify()
            return dropped

    def stop(self) -> None:
        """Claim no more and let go of all tickets."""
        with self._lock:
            self._stopping = True
            answered = self._answered_tickets()
            self._to_claim.notify()
            self._to_join.notify()
        for let_go in answered:
            let_go()

    def leftovers(self) -> list[Row]:
        """The rows that never joined; to be asked for when `run` has ended."""
        return [*self._ready, *self._suspects]

    def _await_decision(self) -> Decision:
        with self._lock:
            while not self._stopping:
                now = self._clock()
                decision = self._decide(now)
                if decision.claim:
                    return decision
                # wakes for the next search while the batch is busy too, so that `free` need not
                self._looks_at = decision.wake_at
                if now < self._next_search < decision.wake_at:
                    self._looks_at = self._next_search
                self._to_claim.wait(min(self._looks_at - now, threading.TIMEOUT_MAX))
            return Decision(0, 0.0)

    def _decide(self, now: float) -> Decision:
        seen = Snapshot(
            held=self._held,
            expected=self._announced - self._answered,
            since=self._since,
            next_poll=self._next_poll,
            next_search=self._next_search,
            quarantine=self._quarantine,
        )
        return self._policy().decide(now, seen)

    def _search(self, limit: int) -> None:
        """Take suspects on if there are any; from then on nobody else joins."""
        jobs = self._claim(limit, suspects=True)
        with self._lock:
            self._next_search = self._clock() + min(SEARCH_SECONDS, self._poll_seconds)
            self._held += len(jobs)
        prepared = [self._prepare(job) for job in jobs]
        with self._lock:
            self._suspects.extend(row for row in prepared if row is not None)
            self._held -= prepared.count(None)
            self._quarantine = bool(self._suspects)
            self._to_join.notify()

    def _suspects_turn(self) -> bool:
        waiting = len(self._suspects)
        return waiting > 0 and self._held == waiting and self._committed(waiting)

    def _all_suspects(self) -> list[Row]:
        """They run together now."""
        turn, self._suspects = self._suspects, []
        self._isolated = True
        return turn

    def _end_quarantine(self) -> None:
        """When no suspect is here any more: look for others at once, before the batch fills."""
        if self._quarantine and not self._suspects and not (self._held and self._isolated):
            self._quarantine = self._isolated = False
            self._next_search = 0.0

    def _feed(self, limit: int) -> None:
        announced = self._announced
        jobs = self._claim(limit)
        self._note_answer(announced, len(jobs), full=len(jobs) == limit)
        rows: list[Row | None] = []
        started = self._clock()
        for job in jobs:
            rows.append(self._prepare(job))
            if self._clock() - started >= HAND_OVER_SECONDS:
                self._hand_over(rows)
                rows, started = [], self._clock()
        self._hand_over(rows)

    def _hand_over(self, prepared: Sequence[Row | None]) -> None:
        """Let rows join; None stands for a job that will not."""
        rows = [row for row in prepared if row is not None]
        with self._lock:
            self._held -= len(prepared) - len(rows)
            self._ready.extend(rows)
            self._to_join.notify()

    def _note_answer(self, announced: int, claimed: int, *, full: bool) -> None:
        """A full claim may have left jobs behind; any other answers for every earlier ticket."""
        with self._lock:
            now = self._clock()
            self._held += claimed
            self._answered = min(announced, self._answered + claimed) if full else announced
            if self._answered == self._announced:
                self._since = None
            self._next_poll = now if full else now + self._poll_seconds
            answered = self._answered_tickets()
        for let_go in answered:
            let_go()

    def _answered_tickets(self) -> list[LetGo]:
        """What lets those tickets go that wait no longer; at the end, that is all of them."""
        answered = []
        while self._tickets and (self._stopping or self._tickets[0][0] <= self._answered):
            answered.append(self._tickets.popleft()[1])
        return answered

    def _pause(self) -> None:
        with self._lock:
            self._to_claim.wait_for(lambda: self._stopping, self._poll_seconds)
