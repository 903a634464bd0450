"""Tickets as Celery messages on one Redis list per model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice

from nexus_jobs.adapters.redis_link import RedisLink
from nexus_jobs.adapters.ticket_message import queue_of, ticket

MOST_WAITING = 32
"""Tickets of one model in Redis, about: each process that rings counts by itself. More jobs need no
more tickets: a claim takes whatever is queued, and a worker whose claim was filled claims again by
itself.
"""


class CeleryTickets:
    """The TicketQueue of Celery workers. `ticket_jobs` is the most jobs one ticket stands for."""

    def __init__(self, link: RedisLink, *, ticket_jobs: int) -> None:
        self._link = link
        self._ticket_jobs = ticket_jobs
        self._waiting: dict[str, int] = defaultdict(lambda: MOST_WAITING)
        """How many waited when last heard of, which is after each ring."""

    def ring(self, counts: Mapping[str, int]) -> None:
        for model, count in counts.items():
            sizes = list(islice(self._split(count), MOST_WAITING))
            room = self._room(model, len(sizes))
            if room > 0:
                tickets = [ticket(model, jobs) for jobs in sizes[:room]]
                self._waiting[model] = self._link.call("LPUSH", queue_of(model), *tickets)

    def waiting(self, model: str) -> int:
        with self._link as client:
            return client.llen(queue_of(model))

    def _room(self, model: str, wanted: int) -> int:
        """How many more tickets may wait; looks only when there may not be as much as wanted."""
        if self._waiting[model] + wanted > MOST_WAITING:
            self._waiting[model] = self.waiting(model)
        return MOST_WAITING - self._waiting[model]

    def _split(self, count: int) -> Iterator[int]:
        for start in range(0, count, self._ticket_jobs):
            yield min(self._ticket_jobs, count - start)
