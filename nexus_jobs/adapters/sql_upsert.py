"""Insert or overwrite, insert or keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Table, false
from sqlalchemy.dialects import postgresql, sqlite


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or overwrite the given columns of those that have the same primary key."""
    if not rows:
        return
    statement = _dialect(connection).insert(table)
    keys = {column.name for column in table.primary_key}
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key), set_=changed
    )
    connection.execute(statement, rows)


def insert_or_lock(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row, or lock the one that has the same primary key; whether it was inserted.

    A transaction that has the same key in hand is waited for.
    """
    statement = _dialect(connection).insert(table).values(row)
    keys = list(table.primary_key)
    # PostgreSQL locks even what the condition then spares
    kept = statement.on_conflict_do_update(
        index_elements=keys,
        set_={column.name: statement.excluded[column.name] for column in keys},
        where=false(),
    )
    return connection.execute(kept.returning(*keys)).first() is not None


def _dialect(connection: Connection) -> ModuleType:
    return sqlite if connection.dialect.name == "sqlite" else postgresql
