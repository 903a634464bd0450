"""Tickets as Celery messages on one Redis list per model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from nexus_jobs.config import Settings
from nexus_jobs.errors import QueueUnavailable

TICKET_TASK = "nexus.generate"
_PREFIX = "nexus."

SOCKET = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": 1.0,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
"""A Redis that is gone or half-open is noticed within seconds, everywhere."""

QUIET_SECONDS = 1.0
"""After a failure, the time for which nobody else waits for Redis to time out."""


def queue_of(model: str) -> str:
    """The Redis list that holds a model's tickets."""
    return _PREFIX + model


def model_of(queue: str) -> str:
    """The model whose tickets a queue holds."""
    return queue.removeprefix(_PREFIX)


def celery_app(settings: Settings) -> Celery:
    """A Celery app with the platform's settings; connects to nothing yet."""
    app = Celery("nexus", broker=settings.redis_url)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,  # the lease does that job
        task_send_sent_event=settings.queue.task_events,
        worker_send_task_events=settings.queue.task_events,
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,
        broker_transport_options={**SOCKET, "visibility_timeout": 3600},
        broker_connection_timeout=2.0,
    )
    return app


class CeleryTickets:
    """The TicketQueue on Celery. `ticket_jobs` is the most jobs that one ticket stands for."""

    def __init__(self, app: Celery, client: redis.Redis, *, ticket_jobs: int) -> None:
        self._app = app
        self._redis = client
        self._ticket_jobs = ticket_jobs
        self._quiet_until = 0.0

    def ring(self, counts: Mapping[str, int]) -> None:
        if time.monotonic() < self._quiet_until:
            raise QueueUnavailable("Redis did not answer a moment ago")
        try:
            with self._app.producer_or_acquire() as producer:
                for model, count in self._tickets(counts):
                    self._app.send_task(
                        TICKET_TASK,
                        (model, count),
                        queue=queue_of(model),
                        producer=producer,
                        retry=False,
                    )
        except (OperationalError, redis.RedisError, OSError) as error:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            raise QueueUnavailable(f"Redis did not answer: {error}") from error

    def waiting(self, model: str) -> int:
        try:
            length = self._redis.llen(queue_of(model))
        except redis.RedisError as error:
            raise QueueUnavailable(f"Redis did not answer: {error}") from error
        assert isinstance(length, int)  # noqa: S101 - the client's types also cover asyncio
        return length

    def _tickets(self, counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        for model, count in counts.items():
            for start in range(0, count, self._ticket_jobs):
                yield model, min(self._ticket_jobs, count - start)
