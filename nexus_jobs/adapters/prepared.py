"""Statements that run with every job, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Update
from sqlalchemy.sql.compiler import SQLCompiler

Slot = tuple[str, Any, Callable[[Any], Any] | None]


class Prepared:
    """A statement without results, for a database whose driver binds by position.

    What SQLAlchemy does for each execution takes several times as long as SQLite's part in it, and
    is done here for the first execution only.
    """

    def __init__(self, statement: Insert | Update) -> None:
        self._statement = statement
        self._sql = ""
        self._slots: list[Slot] = []
        """The name, the value if none is given, and the conversion of each parameter, in order."""

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Run it once for each row of values; how many rows of the database it touched."""
        if not self._sql:
            self._slots, self._sql = _compiled(self._statement, connection.dialect)
        return connection.exec_driver_sql(self._sql, [self._bound(row) for row in rows]).rowcount

    def _bound(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            convert(row.get(name, default)) if convert else row.get(name, default)
            for name, default, convert in self._slots
        )


def _compiled(statement: Insert | Update, dialect: Dialect) -> tuple[list[Slot], str]:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - what a dialect compiles statements with
    slots = [
        (name, compiled.params[name], _conversion(compiled, name, dialect))
        for name in compiled.positiontup or ()
    ]
    return slots, compiled.string


def _conversion(compiled: SQLCompiler, name: str, dialect: Dialect) -> Callable[[Any], Any] | None:
    return compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
