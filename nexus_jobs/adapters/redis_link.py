"""How every connection to Redis behaves when Redis does not."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nexus_jobs.errors import QueueUnavailable

SOCKET: Final[dict[str, Any]] = {
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
"""A Redis that is gone or half-open is noticed soon."""

QUIET_SECONDS: Final = 5.0
"""After a failure, the time for which nobody waits for the same Redis to time out again."""


_AGAIN: Final = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


class RedisLink:
    """One Redis, guarded: `with link as client: client.get(…)`.

    Raises:
        QueueUnavailable: on entering or leaving the block: it does not answer, or did not a
            moment ago.
    """

    def __init__(self, url: str) -> None:
        # one more try at once, since a kept connection may just have gone stale
        self.client = redis.Redis.from_url(url, **SOCKET, retry=_AGAIN)
        self._quiet_until = 0.0
        self._turn = threading.RLock()
        self._kept: Any = None  # the methods of a connection have no types

    def call(self, *command: str | bytes) -> Any:
        """What Redis answers to one command, on a connection that is kept for this.

        It takes half as long as by a client, which gets a connection from its pool each time.

        Raises:
            QueueUnavailable: it does not answer, or did not a moment ago.
        """
        with self._turn, self as client:
            connection = self._kept
            if connection is None:
                connection = self._kept = client.connection_pool.get_connection()

            def ask() -> Any:
                connection.send_command(*command)
                return connection.read_response()

            return _AGAIN.call_with_retry(ask, lambda _: connection.disconnect())

    def __enter__(self) -> redis.Redis:
        if time.monotonic() < self._quiet_until:
            raise QueueUnavailable("Redis did not answer a moment ago")
        return self.client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, (redis.RedisError, OSError)):
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            if isinstance(error, redis.ReadOnlyError):
                self._let_go()
            raise QueueUnavailable(f"Redis did not answer: {error}") from error

    def _let_go(self) -> None:
        """Leave a server that is no master any more and never hangs up; the address may lead to
        another one by now."""
        self.client.connection_pool.disconnect(inuse_connections=False)
        with self._turn:
            if self._kept is not None:
                self._kept.disconnect()
