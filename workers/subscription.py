"""Which queues this worker's Celery consumer takes tickets from."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

from celery.worker.consumer import Consumer

from nexus_jobs.adapters.ticket_message import queue_of


class Subscription:
    """Has the consumer take the tickets of some models. Only its own thread may change it.

    A consumer that has lost its connection begins anew with the queues it had then; what it was
    told meanwhile may be lost, so that it is told until it has done it.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._wanted: frozenset[str] = frozenset()
        self._done: frozenset[str] | None = None

    def follow(self, models: Collection[str]) -> None:
        """Take tickets of these models and of no others; to be called every second or so."""
        self._wanted = frozenset(map(queue_of, models))
        if self._wanted != self._done:
            self._consumer.call_soon(self._change)

    def start_anew(self) -> None:
        """Have the consumer connect again, unless it is about to."""
        if self._consumer.connection is not None:
            self._consumer.call_soon(self._break_off)

    def _change(self) -> None:
        wanted = self._wanted
        consumed = set(self._consumer.app.amqp.queues.consume_from)
        for queue in consumed - wanted:
            self._consumer.cancel_task_queue(queue)
        for queue in wanted - consumed:
            self._consumer.add_task_queue(queue)
        self._done = wanted

    def _break_off(self) -> NoReturn:
        self._consumer.app.amqp.queues.select(list(self._wanted))
        self._done = None
        raise ConnectionError("no ticket came in")  # its loop takes this for one that Redis closed
