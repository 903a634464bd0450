"""Tickets as Celery messages on one Redis list per model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from celery import Celery

from nexus_jobs.adapters.redis_link import SOCKET, RedisLink
from nexus_jobs.adapters.ticket_transport import TicketTransport
from nexus_jobs.config import Settings

TICKET_TASK = "nexus.generate"
_PREFIX = "nexus."

MOST_WAITING = 32
"""Tickets of one model in Redis. More jobs need no more tickets: a claim takes whatever is queued,
and a worker whose claim was filled claims again by itself.
"""

RINGING = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "socket_timeout": 1.0}
"""Transport options for who rings: a request does not wait for a Redis that is away."""


def queue_of(model: str) -> str:
    """The Redis list that holds a model's tickets."""
    return _PREFIX + model


def model_of(queue: str) -> str:
    """The model whose tickets a queue holds."""
    return queue.removeprefix(_PREFIX)


def celery_app(settings: Settings, **transport: float) -> Celery:
    """A Celery app with the platform's settings; connects to nothing yet.

    `transport` are options of kombu's Redis transport. A worker waits on its socket for tickets,
    so that its time-out is a long one; who rings should not wait.
    """
    app = Celery("nexus", broker=settings.redis_url)
    app.conf.update(
        broker_transport=f"{TicketTransport.__module__}:{TicketTransport.__name__}",
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,  # the lease does that job
        worker_send_task_events=settings.queue.task_events,
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,
        # No task of ours is one that this cancels; unset, Celery warns at each lost connection.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        broker_transport_options={
            **SOCKET,
            "socket_timeout": 5.0,
            # A ticket that a worker has taken along when it died does no harm, so that Redis need
            # not remember it: saves four calls a ticket.
            "ack_emulation": False,
            **transport,
        },
        broker_connection_timeout=2.0,
    )
    return app


class CeleryTickets:
    """The TicketQueue on Celery. `ticket_jobs` is the most jobs that one ticket stands for."""

    def __init__(self, app: Celery, link: RedisLink, *, ticket_jobs: int) -> None:
        self._app = app
        self._link = link
        self._ticket_jobs = ticket_jobs
        self._room: dict[str, int] = defaultdict(int)
        """Tickets that may follow before it is time to look how many wait."""

    def ring(self, counts: Mapping[str, int]) -> None:
        with self._link, self._app.producer_or_acquire() as producer:
            for model, count in counts.items():
                for jobs in self._split(count):
                    if not self._has_room(model):
                        break
                    self._app.send_task(
                        TICKET_TASK,
                        (model, jobs),
                        queue=queue_of(model),
                        producer=producer,
                        retry=False,
                    )

    def waiting(self, model: str) -> int:
        with self._link as client:
            return client.llen(queue_of(model))

    def _has_room(self, model: str) -> bool:
        """Whether another ticket may wait; looks only when that many may have come together."""
        if self._room[model] <= 0:
            self._room[model] = MOST_WAITING - self.waiting(model)
        self._room[model] -= 1
        return self._room[model] >= 0

    def _split(self, count: int) -> Iterator[int]:
        for start in range(0, count, self._ticket_jobs):
            yield min(self._ticket_jobs, count - start)
