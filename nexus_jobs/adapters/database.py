"""One database: its transactions, its clock, and the one place where its errors become ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Engine,
    Select,
    select,
)
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from nexus_jobs.adapters.kept_connections import KeptConnections
from nexus_jobs.adapters.sql_engines import (
    BUSY_TIMEOUT,
    parse_url,
    postgresql_engines,
    sqlite_engines,
)
from nexus_jobs.adapters.writer_queue import WriterQueue
from nexus_jobs.errors import Conflict, NexusError, StoreUnavailable


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
_SOMETHING = {
    "sqlite": "PRAGMA user_version = 0",
    "postgresql": "SELECT pg_logical_emit_message(true, 'nexus', '')",
}
"""Statements that mean nothing, but are written to the log; a commit of nothing waits for nothing.
"""


class Database:
    """A pool of at most `pool_size` connections, and a few that only write.

    Nothing connects before the first use.

    Raises:
        ConfigError: the URL is not one of SQLite or PostgreSQL, or its driver is not installed.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite":
            self._reader, self._single, self._relaxed = sqlite_engines(parsed, pool_size)
            self._writer = self._single
            # a deferred transaction that reads first cannot always become a writer later
            self._begin = self._begin_single = "BEGIN IMMEDIATE"
            self._queue: WriterQueue | None = WriterQueue(f"{parsed.database}-writer", BUSY_TIMEOUT)
        else:
            self._reader, self._single, self._relaxed = postgresql_engines(parsed, pool_size)
            self._writer = self._reader
            self._begin, self._begin_single = "BEGIN", ""
            self._queue = None
        self._something = _SOMETHING[parsed.get_backend_name()]
        self._kept = {e: KeptConnections(e) for e in (self._single, self._relaxed)}

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

        One that is not durable does not wait for the disk. A power cut, or on PostgreSQL a crash of
        the server, may undo it, but never without all that was committed after it.
        """
        return self._writing(self._single if durable else self._relaxed, self._begin_single)

    @contextmanager
    def write_and_tell(
        self, tell: Callable[[], None], *, once: bool, durable: bool
    ) -> Iterator[Connection]:
        """A transaction; `once`: it is a single statement, and may be not `durable`.

        `tell` is called as soon as every transaction that begins later to write will see it. In
        SQLite that is before the commit: it must neither write there nor raise.
        """
        with self.write_once(durable=durable) if once else self.write() as connection:
            yield connection
            if self._queue:  # the next has its turn when this one is committed
                tell()
        if not self._queue:
            tell()

    def flush(self) -> None:
        """Wait until all that was committed before is on the disk."""
        with self.write_once() as connection:
            connection.connection.cursor().execute(self._something)

    @contextmanager
    def _writing(self, engine: Engine, begin: str) -> Iterator[Connection]:
        turn = self._queue.turn() if self._queue else nullcontext()
        with (
            self._translated(),
            turn,
            self._connected(engine) as connection,
            connection.begin() if begin else nullcontext(),
        ):  # without `begin` each statement is a transaction, whatever SQLAlchemy thinks has begun
            if begin:  # not by an event: SQLAlchemy is slower where there is a listener
                connection.connection.cursor().execute(begin)
            try:
                yield connection
            except self._driver.Error as error:  # SQLAlchemy has not seen it
                if engine.dialect.is_disconnect(error, connection.connection, None):
                    connection.invalidate(error)
                raise

    def _connected(self, engine: Engine) -> AbstractContextManager[Connection]:
        kept = self._kept.get(engine)
        return kept.connection() if kept else engine.connect()

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
            self._reader.dispose()
            for kept in self._kept.values():
                kept.close()
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
    # all others: besides one that does not answer, a table is missing (the schema is not there
    # yet), a server has ended the transaction or only reads, a file is damaged
    except (DatabaseError, driver.DatabaseError) as error:
        raise StoreUnavailable(_first_line(error)) from error
    except (InterfaceError, driver.InterfaceError) as error:
        raise StoreUnavailable(_first_line(error)) from error
    except OSError as error:
        raise StoreUnavailable(f"the database's folder cannot be used: {error}") from error
    except PoolTimeout as error:
        raise StoreUnavailable("every database connection is in use") from error


def _first_line(error: BaseException) -> str:
    """The first line of the driver's message."""
    return str(getattr(error, "orig", error)).partition("\n")[0]
