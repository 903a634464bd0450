"""One database: its connections, its clock, and the one place where its errors become ours."""

from __future__ import annotations

import select as sockets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson
from sqlalchemy import (
    URL,
    Connection,
    Double,
    Engine,
    Select,
    create_engine,
    event,
    make_url,
    select,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DisconnectionError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nexus_jobs.adapters.writer_queue import WriterQueue
from nexus_jobs.errors import ConfigError, Conflict, NexusError, StoreUnavailable

BUSY_TIMEOUT = 10.0
"""Seconds a SQLite writer waits for those of other processes."""
CONNECT_TIMEOUT = 5
"""Seconds to wait for a PostgreSQL server to answer."""
FROZEN_TIMEOUT = 10.0
"""Seconds after which a PostgreSQL server ends a transaction whose process says nothing more, so
that those who wait for its locks can go on."""
SINGLE_CONNECTIONS = RELAXED_CONNECTIONS = 2
"""To PostgreSQL, for single statements that write: for the durable ones, and for claims and
heartbeats.
"""
ONE_PLAN = "-c plan_cache_mode=force_generic_plan"
"""PostgreSQL may plan a prepared statement anew each time. The durable ones find their rows by
their ids, whatever the values, and planning took as long as running. Claims and heartbeats do not
have it: the plan of a claim depends on how long the queue is.
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


class database_now(FunctionElement[float]):  # noqa: N801 - a SQL function, as SQLAlchemy writes them
    """Seconds since the epoch on the database's clock."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: SQLCompiler, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: database_now, _compiler: SQLCompiler, **_kw: Any) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"


_NOW: Select[float] = select(database_now())


class Database:
    """A pool of at most `pool_size` connections, and a few that only write.

    Nothing connects before the first use.

    Raises:
        ConfigError: the URL is not one of SQLite or PostgreSQL, or its driver is not installed.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            self._reader, self._single, self._relaxed = _sqlite(parsed, pool_size)
            self._writer = self._single
            # a deferred transaction that reads first cannot always become a writer later
            self._begin = self._begin_single = "BEGIN IMMEDIATE"
            self._queue: WriterQueue | None = WriterQueue(f"{parsed.database}-writer", BUSY_TIMEOUT)
        else:
            self._reader, self._single, self._relaxed = _postgresql(parsed, pool_size)
            self._writer = self._reader
            self._begin, self._begin_single = "BEGIN", ""
            self._queue = None
        self._kept: dict[Engine, Connection] = {}
        """SQLite's writers take turns; whose turn it is may use these."""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection on which every statement sees what is committed at its start."""
        with self._translated(), self._reader.connect() as connection:
            yield connection

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction: committed at the end of the block, rolled back on an error."""
        return self._writing(self._writer, self._begin)

    def write_once(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """For a single statement: a server is spared the round trips around it.

        One that is not durable does not wait for the disk. A power cut may undo it, but never
        without all that was committed after it.
        """
        return self._writing(self._single if durable else self._relaxed, self._begin_single)

    @contextmanager
    def _writing(self, engine: Engine, begin: str) -> Iterator[Connection]:
        turn = self._queue.turn() if self._queue else nullcontext()
        with self._translated(), turn, self._connected(engine) as connection, connection.begin():
            if begin:  # not by an event: SQLAlchemy is slower where there is a listener
                connection.connection.cursor().execute(begin)
            try:
                yield connection
            except self._driver.Error as error:  # SQLAlchemy has not seen it
                if engine.dialect.is_disconnect(error, connection.connection, None):
                    connection.invalidate(error)
                raise

    def _connected(self, engine: Engine) -> AbstractContextManager[Connection]:
        return self._keeping(engine) if self._queue else engine.connect()

    @contextmanager
    def _keeping(self, engine: Engine) -> Iterator[Connection]:
        """A connection that stays open, since to get one from a pool takes as long as a statement.

        After an error it goes back to its pool, which rolls back whatever it has begun.
        """
        connection = self._kept.pop(engine, None) or engine.connect()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._kept[engine] = connection

    @property
    def _driver(self) -> Any:
        """The driver's module."""
        return self._reader.dialect.loaded_dbapi

    def _translated(self) -> AbstractContextManager[None]:
        return _translated(self._driver)

    def prepare(self) -> None:
        """Let readers of a SQLite file go on while it is written; the file keeps the mode.

        Connections that switch the mode at once can make each other fail, so only those who
        upgrade the schema do so, one after the other.
        """
        if self._queue:
            with self._translated(), self._queue.turn(), self._reader.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")

    def close(self) -> None:
        with self._queue.paused() if self._queue else nullcontext():
            while self._kept:
                self._kept.popitem()[1].close()
            for engine in (self._reader, self._single, self._relaxed):
                engine.dispose()
        if self._queue:
            self._queue.close()


def now(connection: Connection) -> float:
    """The database's clock, read once to serve a whole transaction.

    SQLite runs in this process and on its clock, so that it need not be asked.
    """
    if connection.dialect.name == "sqlite":
        return time.time()
    return connection.scalars(_NOW).one()


@contextmanager
def _translated(driver: Any) -> Iterator[None]:
    """Turn errors into ours, those of a driver's module and of SQLAlchemy, which has the same.

    A message never holds a statement's parameters.
    """
    try:
        yield
    # these two not as a cause, since the driver quotes the data
    except (IntegrityError, driver.IntegrityError) as error:
        raise Conflict(f"the database refuses it: {_first_line(error)}") from None
    except (DataError, driver.DataError) as error:
        raise NexusError(f"the database cannot hold it: {_first_line(error)}") from None
    except (OperationalError, driver.OperationalError) as error:
        raise StoreUnavailable(_first_line(error)) from error
    except (InterfaceError, driver.InterfaceError) as error:
        raise StoreUnavailable(_first_line(error)) from error
    except (InternalError, driver.InternalError) as error:
        # a transaction that the server has ended, or a server that only reads
        raise StoreUnavailable(_first_line(error)) from error
    except (ProgrammingError, driver.ProgrammingError) as error:
        # a table is missing: the schema is not there yet
        raise StoreUnavailable(_first_line(error)) from error
    except OSError as error:
        raise StoreUnavailable(f"the database's folder cannot be used: {error}") from error
    except PoolTimeout as error:
        raise StoreUnavailable("every database connection is in use") from error


def _first_line(error: BaseException) -> str:
    """The first line of the driver's message."""
    return str(getattr(error, "orig", error)).partition("\n")[0]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError("database.url is not a URL; try postgresql://user@host/name") from error
    driver = DRIVERS.get(parsed.get_backend_name())
    if driver is None or (driver.startswith("sqlite") and not parsed.database):
        raise ConfigError(
            f"database.url {parsed!r}: use postgresql://user@host/name or sqlite:///file"
        )
    return parsed.set(drivername=driver)


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


def _postgresql(url: URL, pool_size: int) -> tuple[Engine, Engine, Engine]:
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

    The pool's own ping costs a round trip each time, as much as a statement. A connection that
    rests has nothing to read, unless it has come to its end.
    """

    @event.listens_for(engine, "checkout")
    def check(connection: Any, _record: object, _proxy: object) -> None:
        poll = sockets.poll()
        poll.register(connection, sockets.POLLIN)
        if poll.poll(0):
            try:
                engine.dialect.do_ping(connection)
            except engine.dialect.loaded_dbapi.Error as error:
                raise DisconnectionError from error


def _sqlite(url: URL, pool_size: int) -> tuple[Engine, Engine, Engine]:
    """For readers, for the writer whose turn it is, and for one who need not wait for the disk."""

    def engine(synchronous: str, at_most: int) -> Engine:
        made = _engine(url, at_most, connect_args={"timeout": BUSY_TIMEOUT})

        @event.listens_for(made, "connect")
        def configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute("PRAGMA foreign_keys=ON")

        return made

    return engine("FULL", pool_size), engine("FULL", 1), engine("NORMAL", 1)
