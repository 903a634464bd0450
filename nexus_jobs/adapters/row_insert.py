"""Many rows into a table, in the way that is fastest on each database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Insert,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

from nexus_jobs.adapters.database import database_now, now
from nexus_jobs.adapters.tables import Prose, storable


class RowInsert:
    """Inserts rows that have all columns of the table.

    `times` names the columns that are given in seconds from the insertion. To PostgreSQL the rows
    go as one JSON document: the driver binds one value instead of one for each column of each
    row, which takes half the time at 16 rows, and a quarter if nothing else is in the transaction.
    """

    def __init__(self, table: Table, times: Collection[str] = ()) -> None:
        self._times = times
        self._prose = [column.name for column in table.columns if isinstance(column.type, Prose)]
        self._plain = insert(table)
        self._from_document = _from_document(table, times)

    def execute(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> float:
        """Insert at least one row; the time of the insertion."""
        if connection.dialect.name == "postgresql":
            document = orjson.dumps([self._storable(row) for row in rows]).decode()
            at: float = connection.scalars(self._from_document, {"rows": document}).all()[0]
            return at
        at = now(connection)
        connection.execute(self._plain, [self._timed(row, at) for row in rows])
        return at

    def _storable(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {**row, **{name: storable(row[name]) for name in self._prose}}

    def _timed(self, row: Mapping[str, Any], at: float) -> dict[str, Any]:
        return {**row, **{n: row[n] + at for n in self._times if row[n] is not None}}


def _from_document(table: Table, times: Collection[str]) -> Insert:
    names = [column.name for column in table.columns]
    document = cast(bindparam("rows", type_=Text), JSON)
    given = func.json_populate_recordset(text(f"NULL::{table.name}"), document)
    rows = given.table_valued(*names)
    values = [rows.c[name] + database_now() if name in times else rows.c[name] for name in names]
    return insert(table).from_select(names, select(*values)).returning(database_now())
