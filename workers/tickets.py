"""What becomes of a ticket in a worker: announced as it comes in, let go when it is answered.

This is how Celery runs the ticket task here, its `Strategy`: a ticket only waits, for which it
needs no thread. Celery takes in no more than its prefetch count of tickets that are not let go,
which leaves further ones to other workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
from celery.worker.consumer import Consumer
from kombu.message import Message

log = structlog.get_logger(__name__)

LetGo = Callable[[], object]
"""Lets a ticket go; any thread may call it, and it does not block."""


class Announce(Protocol):
    """Tells a model's batch of `count` new jobs; whether the ticket has to wait for them.

    If so, `let_go` is called when it need not any longer.
    """

    def __call__(self, model: str, count: int, let_go: LetGo) -> bool: ...


class Tickets:
    """The tickets of one worker.

    So many `of_a_model`, and so many `of_all`, may wait as long as it takes. Further ones are let
    go after `patience` seconds, so that those of another model can come in; no job depends on them.
    """

    def __init__(
        self, announce: Announce, *, of_a_model: int, of_all: int, patience: float
    ) -> None:
        self._announce = announce
        self._of_a_model = of_a_model
        self._of_all = of_all
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: dict[object, tuple[str, LetGo]] = {}
        """The model of each ticket that is here, and what lets it go."""
        self.taken = 0
        """All that ever came in."""

    @property
    def waiting(self) -> int:
        """Those that wait here now."""
        return len(self._waiting)

    def take(
        self, model: str, count: int, let_go: LetGo, later: Callable[[float, LetGo], object]
    ) -> bool:
        """Announce the jobs of a ticket; whether it waits, until `let_go` is called.

        `later` calls something after so many seconds.
        """
        ticket = object()
        with self._lock:
            self.taken += 1
            self._waiting[ticket] = model, let_go
            models = [held for held, _ in self._waiting.values()]
            surplus = models.count(model) > self._of_a_model or len(models) > self._of_all

        def leave() -> None:  # whoever keeps this keeps no more of the ticket
            left = self._remove(ticket)
            if left is not None:
                left()

        waits = self._announce(model, count, leave)
        if not waits:
            self._remove(ticket)
        elif surplus:
            later(self._patience, leave)
        return waits

    def _remove(self, ticket: object) -> LetGo | None:
        """What lets the ticket go, if it was here until now."""
        with self._lock:
            return self._waiting.pop(ticket, (None, None))[1]

    def strategy(self, consumer: Consumer) -> Callable[..., None]:
        """What Celery calls with every message of the task, on the consumer's own thread.

        Celery asks for it whenever it has connected; it knows nothing of earlier tickets then.
        """
        with self._lock:
            self._waiting.clear()

        def handle(message: Message, *_: Any) -> None:
            told = _Told(message, consumer)

            def release() -> None:
                message.ack_log_error(log, consumer.connection_errors)
                told.ended()

            match _content(message):
                case [[str(model), int(count)], *_] if count > 0:
                    let_go = partial(consumer.call_soon, release)  # only its thread may release it
                    if self.take(model, count, let_go, consumer.timer.call_after):
                        return
                case _:
                    log.warning("ticket.garbled")
            release()

        return handle


def _content(message: Message) -> object:
    """What the message says, or None: anybody may have written it."""
    try:
        return message.payload
    except Exception as error:
        log.warning("ticket.unreadable", reason=type(error).__name__)
        return None


class _Told:
    """The events by which monitors such as Flower see a ticket, if any listens."""

    def __init__(self, message: Message, consumer: Consumer) -> None:
        headers = message.headers
        self._consumer = consumer
        self._id, self._since = headers.get("id"), time.monotonic()
        self._send(
            "task-received",
            name=headers.get("task"),
            args=headers.get("argsrepr"),
            kwargs=headers.get("kwargsrepr"),
            root_id=headers.get("root_id"),
            retries=0,
        )

    def ended(self) -> None:
        self._send("task-succeeded", result="", runtime=time.monotonic() - self._since)

    def _send(self, kind: str, **fields: Any) -> None:
        events = self._consumer.event_dispatcher
        if events is not None:  # a worker without events, heartbeats and gossip has none
            events.send(kind, uuid=self._id, **fields)
