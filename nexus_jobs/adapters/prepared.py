"""Statements that run for every job: compiled once, and run by the database's driver itself."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

Conversion = Callable[[Any], Any] | None


class Prepared:
    """A statement whose parameters are single values, never lists.

    What SQLAlchemy does for each execution takes several times as long as SQLite's part in it.
    Errors are the driver's own.
    """

    def __init__(self, statement: Insert | Update) -> None:
        self._statement = statement
        self._parameters: dict[str, Parameters] = {}
        self._columns: dict[str, _Columns] = {}
        """Both by the name of the dialect."""

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it once for each of the values; how many rows of the database it changed.

        sqlite3 does not count what a statement changes that begins with WITH.
        """
        parameters, cursor = self._for(connection.dialect), _cursor(connection)
        cursor.executemany(parameters.sql, [parameters.bind(row) for row in rows])
        changed: int = cursor.rowcount
        return changed

    def fetch(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """The rows that it returns, with their columns as attributes."""
        dialect, cursor = connection.dialect, _cursor(connection)
        parameters = self._for(dialect)
        cursor.execute(parameters.sql, parameters.bind(values))
        columns = self._columns.get(dialect.name)
        if columns is None:
            columns = self._columns[dialect.name] = _Columns(
                self._statement, dialect, [code for _, code, *_ in cursor.description]
            )
        return [columns.read(row) for row in cursor.fetchall()]

    def _for(self, dialect: Dialect) -> Parameters:
        known = self._parameters.get(dialect.name)
        if known is None:
            known = self._parameters[dialect.name] = Parameters(self._statement, dialect)
        return known


class Parameters:
    """A statement as a driver takes it, and its parameters."""

    def __init__(self, statement: Insert | Update, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what a dialect makes of statements
        self.sql = compiled.string
        self._by_position = compiled.positional
        self._names = list(compiled.positiontup or compiled.params)
        binds = [compiled.binds[name] for name in self._names]
        self._conversions: list[Conversion] = [
            _type(bind, dialect).bind_processor(dialect) for bind in binds
        ]
        self._fixed = {
            name: bind.value
            for name, bind in zip(self._names, binds, strict=True)
            if not bind.required
        }

    def bind(self, values: Mapping[str, Any]) -> tuple[Any, ...] | dict[str, Any]:
        """The parameters, each of which is given or fixed in the statement."""
        given = {**self._fixed, **values}
        bound = tuple(
            convert(given[name]) if convert else given[name]
            for name, convert in zip(self._names, self._conversions, strict=True)
        )
        return bound if self._by_position else dict(zip(self._names, bound, strict=True))


class _Columns:
    """The columns that a statement returns; `codes` are the driver's for their types."""

    def __init__(self, statement: Insert | Update, dialect: Dialect, codes: Sequence[Any]) -> None:
        columns = list(statement.exported_columns)
        self._row = _row_type([column.name for column in columns])
        self._conversions: list[Conversion] = [
            _type(column, dialect).result_processor(dialect, code)
            for column, code in zip(columns, codes, strict=True)
        ]

    def read(self, values: Sequence[Any]) -> Any:
        pairs = zip(values, self._conversions, strict=True)
        return self._row(*(convert(value) if convert else value for value, convert in pairs))


def _row_type(names: Sequence[str]) -> Callable[..., Any]:
    return namedtuple("Row", names)


def _type(of: Any, dialect: Dialect) -> TypeEngine[Any]:
    kind: TypeEngine[Any] = of.type.dialect_impl(dialect)
    return kind


def _cursor(connection: Connection) -> Any:
    return connection.connection.cursor()
