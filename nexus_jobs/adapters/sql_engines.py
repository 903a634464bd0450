"""The engines of SQLAlchemy for a database's URL: how its connections are made and checked."""

from __future__ import annotations

import select as sockets
import sqlite3
from typing import Any

import orjson
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError

from nexus_jobs.errors import ConfigError
from nexus_jobs.urls import check_database

BUSY_TIMEOUT = 10.0
"""Seconds a SQLite writer waits for those of other processes."""
CONNECT_TIMEOUT = 5
"""Seconds to wait for a PostgreSQL server to answer."""
FROZEN_TIMEOUT = 10.0
"""Seconds after which a PostgreSQL server ends a transaction whose process says nothing more, so
that those who wait for its locks can go on."""
SINGLE_CONNECTIONS = RELAXED_CONNECTIONS = 2
"""To PostgreSQL, for single statements that write: for the durable ones, and for others (claims,
heartbeats, submissions that wait for their end).
"""
ONE_PLAN = "-c plan_cache_mode=force_generic_plan"
"""PostgreSQL may plan a prepared statement anew each time. The durable ones find their rows by
their ids, whatever the values, and planning took as long as running. The others do not have it:
the plan of a claim depends on how long the queue is.
"""
DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}
SILENCE = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A host that is gone without a word is noticed within about ten seconds, and not within hours as
by default, which would leave a worker that claims and cannot finish."""


def parse_url(url: str) -> URL:
    """The URL with the driver that we use.

    Raises:
        ConfigError: it is not one of SQLite or PostgreSQL.
    """
    try:
        parsed = make_url(check_database(url))
    except (ValueError, ArgumentError) as error:
        raise ConfigError(f"database.url: {error}") from error
    return parsed.set(drivername=DRIVERS[parsed.get_backend_name()])


def _engine(url: URL, pool_size: int, **options: Any) -> Engine:
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # they are prompts and answers
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        **options,
    )


def postgresql_engines(url: URL, pool_size: int) -> tuple[Engine, Engine, Engine]:
    """For all else, for single statements that write, and for those that need not be durable."""

    def engine(at_most: int, *options: str) -> Engine:
        limits = {"connect_timeout": CONNECT_TIMEOUT, **SILENCE}
        given = url.normalized_query.get("options", ())
        together = {"options": " ".join([*given, *options])}
        made = _engine(url, at_most, connect_args={**limits, **together})
        _check_closed(made)
        return made

    try:
        general = engine(pool_size)
        _end_frozen_transactions(general)
        single = engine(SINGLE_CONNECTIONS, ONE_PLAN)
        relaxed = engine(RELAXED_CONNECTIONS, "-c synchronous_commit=off")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "PostgreSQL needs a driver: pip install 'nexus-jobs[postgres]'"
        ) from error
    return general, single, relaxed


def _end_frozen_transactions(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        milliseconds = int(FROZEN_TIMEOUT * 1000)
        connection.execute(f"SET idle_in_transaction_session_timeout = {milliseconds}")


def _check_closed(engine: Engine) -> None:
    """Before a connection is used again, see whether its server has closed it.

    The pool's own ping costs a round trip each time, as much as a statement.
    """

    @event.listens_for(engine, "checkout")
    def check(connection: Any, _record: object, _proxy: object) -> None:
        if has_data(connection):
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError from error


def has_data(connection: Any) -> bool:
    """Whether a driver's connection that rests has something to read: it may have come to its end.

    Never on SQLite, where nobody is at the other end.
    """
    if isinstance(connection, sqlite3.Connection):
        return False
    poll = sockets.poll()
    poll.register(connection, sockets.POLLIN)
    return bool(poll.poll(0))


def sqlite_engines(url: URL, pool_size: int) -> tuple[Engine, Engine, Engine]:
    """For readers, for the writer whose turn it is, and for one who need not wait for the disk."""

    def engine(synchronous: str, at_most: int) -> Engine:
        made = _engine(url, at_most, connect_args={"timeout": BUSY_TIMEOUT})

        @event.listens_for(made, "connect")
        def configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute("PRAGMA foreign_keys=ON")

        return made

    return engine("FULL", pool_size), engine("FULL", 1), engine("NORMAL", 1)
