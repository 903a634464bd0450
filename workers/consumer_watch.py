"""Notices when this worker's Celery consumer takes no more tickets, and has it start anew.

It can stop after a connection was lost, while everything else of the worker lives. Jobs then
still start, since the feeders look for themselves, but later than they could.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import structlog

from nexus_jobs import telemetry
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.ports import Clock, TicketQueue

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
STALLED_SECONDS = 10.0
"""Far above what a consumer that works ever needs for a ticket, also on a busy machine."""


class StallPolicy:
    """Decides from one look after the other whether the consumer has stalled.

    It has when, for `patience` seconds and at every look, tickets waited in Redis, this worker
    held none and none had come in. A consumer whose worker holds no ticket has a thread free for
    the next one and takes it at once, however full the batches are and whoever else takes some.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None
        self._taken = 0

    def stalled(self, now: float, *, waiting: bool, held: int, taken: int) -> bool:
        """What to say at this look. `taken` counts all tickets that ever came in.

        After a yes the patience starts again.
        """
        quiet = waiting and not held and taken == self._taken
        self._taken = taken
        if not quiet:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._patience:
            self._since = None
            return True
        return False


class ConsumerWatch:
    """Looks after the tickets of the models whose tickets it should take at the moment.

    `restart` must make the consumer start anew.
    """

    def __init__(
        self,
        models: Callable[[], Collection[str]],
        *,
        tickets: TicketQueue,
        restart: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._models = models
        self._tickets = tickets
        self._restart = restart
        self._clock = clock
        self._policy = StallPolicy(STALLED_SECONDS)
        self._lock = threading.Lock()
        self._held = self._taken = 0
        self._stopped = threading.Event()

    @contextmanager
    def ticket(self) -> Iterator[None]:
        """A ticket has come in, and is held until the end of the block."""
        with self._lock:
            self._taken += 1
            self._held += 1
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1

    def run(self) -> None:
        """Look every second, until `stop`."""
        while not self._stopped.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Restart the consumer if it has stalled."""
        waiting = self._waiting()
        with self._lock:
            held, taken = self._held, self._taken
        if self._policy.stalled(self._clock(), waiting=waiting, held=held, taken=taken):
            log.warning("consumer.stalled", seconds=STALLED_SECONDS)
            telemetry.consumer_stalls.inc()
            self._restart()

    def stop(self) -> None:
        self._stopped.set()

    def _waiting(self) -> bool:
        try:
            return any(self._tickets.waiting(model) for model in self._models())
        except QueueUnavailable:  # then no consumer can do better
            return False
