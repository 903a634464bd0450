"""Connections that stay open between the transactions of those who only write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from nexus_jobs.adapters.sql_engines import has_data


class KeptConnections:
    """At most as many connections of an engine as its pool has.

    To get one from the pool, and to give it back, takes as long as a statement.
    """

    def __init__(self, engine: Engine) -> None:
        assert isinstance(engine.pool, QueuePool)  # noqa: S101 - which is how engines are made
        self._engine = engine
        self._places = threading.Semaphore(engine.pool.size())
        self._patience = engine.pool.timeout()
        self._kept: list[Connection] = []

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for the block; after an error the pool rolls back what was begun on it.

        Raises:
            PoolTimeout: all of them are in use, for as long as the pool would wait.
        """
        if not self._places.acquire(timeout=self._patience):
            raise PoolTimeout
        try:
            pool = self._engine.pool
            connection = self._usable() or self._engine.connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            if self._engine.pool is pool:
                self._kept.append(connection)
            else:  # `close` has been called
                _end(connection)
        finally:
            self._places.release()

    def close(self) -> None:
        """Close those that are not in use, and the others once they are given back."""
        self._engine.dispose()
        while (connection := self._pop()) is not None:
            _end(connection)

    def _usable(self) -> Connection | None:
        """One that has rested; the pool looks into any that may have come to its end."""
        while (connection := self._pop()) is not None:
            if not has_data(connection.connection.dbapi_connection):
                break
            connection.close()
        return connection

    def _pop(self) -> Connection | None:
        try:
            return self._kept.pop()
        except IndexError:
            return None


def _end(connection: Connection) -> None:
    connection.detach()
    connection.close()
