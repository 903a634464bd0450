"""Notices when this worker's Celery consumer takes no more tickets, and has it start anew.

It can stop after a connection was lost, while everything else of the worker lives. Jobs then
still start, since the feeders look for themselves, but later than they could.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import structlog

from nexus_jobs import telemetry
from nexus_jobs.errors import QueueUnavailable
from nexus_jobs.ports import Clock, TicketQueue
from workers.tickets import Tickets

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
STALLED_SECONDS = 10.0
"""Far above what a consumer that works ever needs for a ticket, also on a busy machine."""


class StallPolicy:
    """Decides from one look after the other whether the consumer has stalled.

    It has when, for `patience` seconds and at every look, tickets waited in Redis, this worker
    held none and none had come in. A consumer whose worker holds no ticket has a place for
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

    `here` are those that have come in; `restart` must make the consumer start anew.
    """

    def __init__(
        self,
        models: Callable[[], Collection[str]],
        *,
        queue: TicketQueue,
        here: Tickets,
        restart: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._models = models
        self._queue = queue
        self._here = here
        self._restart = restart
        self._clock = clock
        self._policy = StallPolicy(STALLED_SECONDS)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look every second, until `stop`."""
        while not self._stopped.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Restart the consumer if it has stalled."""
        waiting = self._waiting()
        held, taken = self._here.waiting, self._here.taken
        if self._policy.stalled(self._clock(), waiting=waiting, held=held, taken=taken):
            log.warning("consumer.stalled", seconds=STALLED_SECONDS)
            telemetry.consumer_stalls.inc()
            self._restart()

    def stop(self) -> None:
        self._stopped.set()

    def _waiting(self) -> bool:
        try:
            return any(self._queue.waiting(model) for model in self._models())
        except QueueUnavailable:  # then no consumer can do better
            return False
