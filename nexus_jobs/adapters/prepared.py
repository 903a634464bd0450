"""Statements that run for every job: on SQLite compiled once, and run by the driver itself."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler

Conversion = Callable[[Any], Any] | None


class Prepared:
    """A statement whose parameters are single values, never lists.

    What SQLAlchemy does for each execution takes several times as long as SQLite's part in it. A
    server's part is longer, so there SQLAlchemy executes it.
    """

    def __init__(self, statement: Insert | Update) -> None:
        self._statement = statement
        self._compiled: _Compiled | None = None

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it once for each of the values; how many rows of the database it changed."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, rows).rowcount
        compiled = self._for(connection.dialect)
        changed: int = (
            _driver(connection).executemany(compiled.sql, map(compiled.bind, rows)).rowcount
        )
        return changed

    def fetch(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows that it returns."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).all()
        compiled = self._for(connection.dialect)
        rows = _driver(connection).execute(compiled.sql, compiled.bind(values)).fetchall()
        return [compiled.row(row) for row in rows]

    def _for(self, dialect: Dialect) -> _Compiled:
        if self._compiled is None:
            self._compiled = _compiled(self._statement, dialect)
        return self._compiled


@dataclass(frozen=True, slots=True)
class _Compiled:
    """Each parameter by name, default and conversion; each column by name and conversion."""

    sql: str
    parameters: Sequence[tuple[str, Any, Conversion]]
    columns: Callable[..., Any]
    conversions: Sequence[Conversion]

    def bind(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            convert(values.get(name, default)) if convert else values.get(name, default)
            for name, default, convert in self.parameters
        )

    def row(self, values: Sequence[Any]) -> Any:
        pairs = zip(values, self.conversions, strict=True)
        return self.columns(*(convert(value) if convert else value for value, convert in pairs))


def _compiled(statement: Insert | Update, dialect: Dialect) -> _Compiled:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what a dialect makes of statements
    columns = statement.exported_columns
    return _Compiled(
        sql=compiled.string,
        parameters=[
            (
                name,
                compiled.params[name],
                compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect),
            )
            for name in compiled.positiontup or ()
        ],
        columns=namedtuple("Row", [column.name for column in columns]),
        conversions=[
            column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
        ],
    )


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
