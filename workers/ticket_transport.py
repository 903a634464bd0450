"""kombu's Redis transport, for queues on which anybody may have left anything."""

from __future__ import annotations

from typing import Any

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)


class TicketChannel(redis.Channel):  # type: ignore[misc]
    """Drops an entry of a queue that is no message.

    kombu takes one for a bug of its own, at which a Celery worker ends. (It has no types.)
    """

    do_restore = False  # a ticket that is lost with its connection only delays

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("ticket.garbled", reason=type(error).__name__)
            return True


class TicketTransport(redis.Transport):  # type: ignore[misc]
    """The same, with that channel."""

    Channel = TicketChannel
